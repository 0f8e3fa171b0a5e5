"""Everything about a preconditioner that changes, as nested tuples of arrays."""

from __future__ import annotations

from typing import NamedTuple

from llqr.backend import Array
from llqr.lengths import Lengths
from llqr.multiplier import Multiplier
from llqr.pace import Pace
from llqr.structures.blocks import BlockFactors


class FitReport(NamedTuple):
    """Numbers of the last fit, 0-d arrays.

    Attributes:
        status: a :class:`llqr.solvers.Status`; 0 before the first fit.
        objective_start: m at the factors the fit started from.
        objective: m at the factors it returned.
        steps: inner steps.
        products: curvature-vector products spent.
        rises: inner steps at which the objective rose.
        damping: λ.
        accepted: 1 if the fitted factors were taken into use.
        bad_block: index of the first block whose numbers were not finite, −1 if there is none.
    """

    status: Array
    objective_start: Array
    objective: Array
    steps: Array
    products: Array
    rises: Array
    damping: Array
    accepted: Array
    bad_block: Array


class PreconditionerState(NamedTuple):
    """Everything that changes.

    Attributes:
        factors: averaged factors in use, by block name.
        step: calls of :meth:`llqr.preconditioner.Preconditioner.advance`.
        next_fit: step at which the next fit is due.
        fits: fits taken into use.
        rejected: fits thrown away (non-finite, or refused by the damping's acceptance rule).
        fallbacks: blocks whose preconditioned value was not finite and was replaced by their input.
        interval: steps between fits of an adaptive interval.
        smoothness: γ of gradient-normalized damping.
        ridge: ρ of an adaptive ridge.
        lengths: those of an annealing, as measured so far (:mod:`llqr.lengths`).
        pace: mean length of annealed steps (:mod:`llqr.pace`).
        multiplier: η of an adaptive multiplier, and what it goes by (:mod:`llqr.multiplier`).
        reach: ‖U x‖ of every block at its last fit, by block name (:mod:`llqr.reach`).
        last_fit: numbers of the last fit.
    """

    factors: BlockFactors
    step: Array
    next_fit: Array
    fits: Array
    rejected: Array
    fallbacks: Array
    interval: Array
    smoothness: Array
    ridge: Array
    lengths: Lengths
    pace: Pace
    multiplier: Multiplier
    reach: dict[str, Array]
    last_fit: FitReport
