"""The lengths of an annealing, measured while step sizes are solved for.

The fit k measures one length for all parameters and, in units of it, how long its own step is in block g:

    c_k = argmin_c m_k(−c x),   ρ_kg = ‖(U_k x)_g‖ / (c_k ‖x_g‖).

It counts for the w_k steps until the next fit. With the means over those steps the annealed lengths are

    c_g = c · min(3, max(1/3, ρ_g^½)),   c = exp(Σ w_k log(κ_k c_k) / Σ w_k),   ρ_g = Σ w_k ρ_kg / Σ w_k.

κ_k = (1 + min(1, w ν_k)) min(1, (1 + R) / (1 + r_k)). Of the first factor, 1 is the length with the lowest
loss after one step, and from 2 on the quadratic model rises (compare "Stepping on the Edge: Curvature Aware
Learning Rate Tuners", arXiv 2407.06183). In between, noisy gradients want longer steps, and exact ones near
interpolation do not: ν_k is the share of noise that the fit found (:mod:`llqr.ridge`); where it is not known
the factor is 1.5. The second one follows the ridge r_k to which the losses of the fit's steps led: one far
above that at the start says that the model does not hold as far as c_k, and nothing is fitted later on that
could find out. A block's own length is best for the next step only, given those of the others, and some are
zero: over a long run it is worse than one length where that suits all, and better where it does not. The
root and the bound are half way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llqr.backend import Array, Backend
from llqr.ridge import TRUSTED_RIDGE, weighted_noise

BOUND = 3.0
"""Largest quotient of a block's length and that of all, and of that and the block's."""


class Lengths(NamedTuple):
    """Means over the steps so far.

    Attributes:
        common: c; 1 before the first.
        steps: Σ w_k, an integer.
        relative: ρ_g by block name; 1 before the first.
    """

    common: Array
    steps: Array
    relative: Mapping[str, Array]

    def of(self, backend: Backend, blocks: Sequence[str]) -> Array:
        """Return c_g of every block named, [n]."""
        ratios = backend.sqrt(backend.stack([self.relative[block] for block in blocks]))
        return -self.common * backend.maximum(-backend.maximum(ratios, 1.0 / BOUND), -BOUND)


def unmeasured(backend: Backend, blocks: Sequence[str], like: Array) -> Lengths:
    """Return what there is before the first fit."""
    one = backend.asarray(1.0, like)
    return Lengths(common=one, steps=backend.integer(0, like), relative=dict.fromkeys(blocks, one))


def with_another(
    backend: Backend,
    lengths: Lengths,
    along: tuple[Array, Array],
    factor: Array,
    blocks: Sequence[str],
    norms: tuple[Array, Array],
    steps: Array,
) -> Lengths:
    """Return the means with one more fit in them.

    Args:
        backend: array operations.
        lengths: means so far.
        along: ⟨x, g⟩ and ⟨x, (C + λI) x⟩; c_k is their ratio, and the fit counts where it is a length.
        factor: κ_k.
        blocks: their names.
        norms: ‖(U_k x)_g‖ and ‖x_g‖ of every block, in that order; where x_g vanishes or U_k x is
            not finite ρ_kg is 1.
        steps: w_k ≥ 1.
    """
    mean = lengths.common
    one = backend.ones((), mean)
    slope, curvature = (backend.asarray(value, mean) for value in along)
    convex = curvature > 0.0
    found = slope / backend.where(convex, curvature, one)
    counts = convex & (found > 0.0) & backend.isfinite(found)
    found = backend.where(counts, found, one)
    after = lengths.steps + steps
    share = backend.asarray(steps, mean) / backend.asarray(after, mean)
    common = mean ** (1.0 - share) * (factor * found) ** share
    solved, plain = (backend.asarray(value, mean) for value in norms)
    known = (plain > 0.0) & (solved < float("inf"))  # not where it is NaN
    ones = backend.ones(plain.shape, mean)
    ratios = backend.where(known, solved, ones) / (found * backend.where(known, plain, ones))
    ratios = backend.where(known, ratios, ones)
    before = backend.stack([lengths.relative[block] for block in blocks])
    relative = backend.where(counts, (1.0 - share) * before + share * ratios, before)
    return Lengths(
        common=backend.where(counts, common, mean),
        steps=backend.where(counts, after, lengths.steps),
        relative={block: relative[index] for index, block in enumerate(blocks)},
    )


def length_factor(
    backend: Backend, noise: Array | None, ridge: Array | None, weight: float, like: Array
) -> Array:
    """Return κ_k.

    Args:
        backend: array operations.
        noise: ν_k, None where it is not known; NaN counts as 1.
        ridge: r_k, None where it does not adapt.
        weight: w > 0.
        like: gives the dtype.
    """
    one = backend.ones((), like)
    factor = 1.5 * one
    if noise is not None:
        factor = one + weighted_noise(backend, backend.asarray(noise, one), weight)
    if ridge is None:
        return factor
    held = (1.0 + TRUSTED_RIDGE) / (1.0 + backend.asarray(ridge, one))
    return factor * -backend.maximum(-held, -1.0)
