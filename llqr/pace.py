"""A bound on annealed steps: none is much longer than those before it.

The lengths of an annealing are what they are (:mod:`llqr.lengths`), and nothing is fitted that could notice
that the loss has become too curved for them. Gradients then grow from step to step and steps with them, until
they have left what was learned; Adam, whose mean squares forget, lets it happen again and again. With L_t the
length of an annealed step before η_t falls,

    L_t = ‖(c_g x_g)_g‖,   (U x)_g = η_t min(1, κ L̄ / L_t) c_g x_g,

where L̄ is the mean of the lengths min(L_t, κ L̄) so far: of all, or with weights that reach back over K steps
once there are more. All blocks are shortened together, so the direction stays. Only ratios of lengths enter.
Where they stay longer than κ L̄, L̄ grows by (κ − 1)/n of itself at the n-th annealed step, by (κ − 1)/K from
the K-th on.

Sources: gradients clipped by a statistic of their own past instead of a constant (Seetharaman et al.,
"AutoClip: Adaptive Gradient Clipping for Source Separation Networks", arXiv 2007.14469); why Adam's steps
become unstable, recover and do so again (Cohen et al., "Adaptive Gradient Methods at the Edge of Stability",
arXiv 2207.14484).
"""

from __future__ import annotations

from typing import NamedTuple

from llqr.backend import Array, Backend


class Pace(NamedTuple):
    """What changes.

    Attributes:
        length: L̄, 0-d; 0 before the first annealed step.
        steps: how many lengths are in it, 0-d integer.
    """

    length: Array
    steps: Array


def no_pace(backend: Backend, like: Array) -> Pace:
    """Return what there is before the first annealed step, in the dtype of ``like``."""
    return Pace(length=backend.asarray(0.0, like), steps=backend.integer(0, like))


def clip_factor(
    backend: Backend, pace: Pace, length: Array, growth: float, memory: int
) -> tuple[Array, Pace]:
    """Return min(1, κ L̄ / L_t), 0-d in (0, 1], and the pace with this step in it.

    Args:
        backend: array operations.
        pace: of the steps before.
        length: L_t, 0-d. A step of length zero, or one that is not finite, is neither shortened nor counted.
        growth: κ ≥ 1.
        memory: K ≥ 1.
    """
    one = backend.ones((), pace.length)
    length = backend.asarray(length, one)
    counts = (length > 0.0) & backend.isfinite(length)
    limit = growth * pace.length
    longer = counts & (pace.steps > 0) & (length > limit)
    factor = backend.where(longer, limit, one) / backend.where(longer, length, one)
    taken = backend.where(longer, limit, length)
    after = pace.steps + 1
    weight = backend.maximum(one / backend.asarray(after, one), 1.0 / memory)
    mean = (1.0 - weight) * pace.length + weight * backend.where(counts, taken, one)
    return factor, Pace(
        length=backend.where(counts, mean, pace.length),
        steps=backend.where(counts, after, pace.steps),
    )
