"""Running statistics of normalisations, for the parameters that are evaluated.

Training moves them by S ← a S + (1 − a) B, where B are those of a batch. So they lag some 1/(1 − a) steps
behind, and where parameters move fast, another network is evaluated than the one that was trained. The last
training batch tells B at the parameters as they are, and its halves B₁ and B₂ how noisy that is:

    S + w (B − S),   B = ½ (B₁ + B₂),   w = max(0, 1 − ‖½ (B₁ − B₂)‖² / ‖B − S‖²)

for every array of statistics. Where S lags far behind w is nearly 1. If the parameters stand still B − S is
noise, mostly that of B, and S, a mean over many batches, stays: w is little more than 0. Training goes on
with S.

Sources: statistics taken anew for evaluation, since running averages lag where parameters move (Wu and
Johnson, "Rethinking 'Batch' in BatchNorm", arXiv 2105.07576); w shrinks as the positive-part estimator of
James and Stein does.
"""

from __future__ import annotations

from llqr.backend import Array, Backend

MIN_EXAMPLES = 4
"""Of fewer a half has one, which some layers cannot normalise."""


def at_present(backend: Backend, running: Array, halves: tuple[Array, Array]) -> Array:
    """Return S + w (B − S).

    Args:
        backend: array operations.
        running: S.
        halves: B₁ and B₂, of the shape of S. S stays where they are not finite.
    """
    first, second = halves
    change = 0.5 * (first + second) - running
    noise, distance = 0.25 * ((first - second) ** 2).sum(), (change**2).sum()
    clear = (noise < distance) & (distance < float("inf"))  # not where it is NaN
    weight = 1.0 - noise / backend.where(clear, distance, backend.ones((), distance))
    return backend.where(clear, running + weight * change, running)
