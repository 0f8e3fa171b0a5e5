"""A bound on what fitted factors may do between two fits.

Factors are fitted to the vectors of one step. Where those grow fourfold, so does U x, and nothing has shown
that the model still holds there: without a bound, gradients that grow make longer steps, which make larger
gradients. A block's *reach* is ‖U x‖ at its last fit; later steps are shortened to

    min(1, κ · reach / ‖U x‖) · U x,   κ ≥ 1.

A block without a step at the fit, because its x vanished, is not bounded until the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

from llqr.backend import Array, Backend


def unbounded(backend: Backend, like: Array) -> Array:
    """Return the reach of a block that has not been fitted, a 0-d array in the dtype of ``like``."""
    return backend.asarray(float("inf"), like)


def reaches(backend: Backend, values: Sequence[Array]) -> list[Array]:
    """Return the reach of every block from its U x at a fit, 0-d arrays; infinite where that vanishes."""
    norms = backend.norms(values)
    present = norms > 0.0
    none = backend.zeros(norms.shape, norms) + float("inf")
    found = backend.where(present, norms, none)
    return [found[index] for index in range(len(values))]


def shortened(
    backend: Backend,
    values: Sequence[Array],
    reach: Sequence[Array],
    growth: float,
    factor: Array | None = None,
) -> list[Array]:
    """Return each U x at most ``growth`` times as long as its reach, times a factor.

    Args:
        backend: array operations.
        values: U x, one array per block, finite.
        reach: one 0-d array per block.
        growth: κ ≥ 1.
        factor: of all, 0-d, after the bound; None for 1.
    """
    norms, limits = backend.norms(values), growth * backend.stack(list(reach))
    longer, ones = norms > limits, backend.ones(norms.shape, norms)
    # Where nothing is shortened the limit may be infinite; ∞/∞ must not arise even if it is not chosen.
    ratios = backend.where(longer, limits, ones) / backend.where(longer, norms, ones)
    return backend.scaled(values, ratios if factor is None else factor * ratios)
