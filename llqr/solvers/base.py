"""What inner solvers have in common: the interface, how they report, and when they stop."""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llqr.backend import Array, Backend, machine_epsilon
from llqr.solvers.problem import FactorProblem
from llqr.structures.blocks import Block, BlockFactors


class Status(enum.IntEnum):
    """Why a solver stopped. Values above ``CONVERGED`` mean that something went wrong."""

    RUNNING = 0
    FINISHED = 1
    CONVERGED = 2
    OBJECTIVE_ROSE = 3
    NOT_FINITE = 4
    NEGATIVE_CURVATURE = 5

    @property
    def advice(self) -> str:
        """What happened and what to do about it."""
        return _ADVICE[self]


_ADVICE = {
    Status.RUNNING: "the solver has not been run",
    Status.FINISHED: "all inner steps were taken",
    Status.CONVERGED: "the gradient in the factors vanished before the last step",
    Status.OBJECTIVE_ROSE: "the objective rose above its starting value, so the best factors so far were "
    "kept; lower the inner learning rate, clip the inner gradient or use conjugate gradient",
    Status.NOT_FINITE: "the objective, the factors or their gradient became NaN, infinite or too large for "
    "their dtype, so the last good factors were kept; lower the inner learning rate or check the "
    "curvature batch for non-finite values",
    Status.NEGATIVE_CURVATURE: "the curvature is not positive along a search direction, so the last good "
    "factors were kept; raise the damping or use a Fisher instead of the Hessian",
}


class SolverResult(NamedTuple):
    """Outcome of an inner solve; arrays, so that it can live inside a compiled step.

    Attributes:
        factors: the factors to use, always finite.
        status: a :class:`Status` as a 0-d integer.
        objective_start: m at the initial factors.
        objective: m at ``factors``.
        steps: inner steps taken.
        products: curvature-vector products spent (Gram matrices count their directions).
        rises: evaluations at which the objective was above the previous one.
        bad_block: index of the first block whose last tried factors or gradient were not finite, −1 if none.
        ridge: ρ for the next fit, None from a solver that does not adapt it.
        noise: ν, the share of noise in the gradient (:mod:`llqr.ridge`); None where it is not known.
        along: source name ↦ ⟨x, g⟩ and ⟨x, (C + λI) x⟩, from a solver that has them at hand.
    """

    factors: BlockFactors
    status: Array
    objective_start: Array
    objective: Array
    steps: Array
    products: Array
    rises: Array
    bad_block: Array
    ridge: Array | None = None
    noise: Array | None = None
    along: Mapping[str, tuple[Array, Array]] | None = None


def describe(
    status: Status,
    bad_blocks: Sequence[str],
    *,
    objectives: tuple[float, float],
    counts: tuple[int, int, int],
) -> str:
    """Return what happened in a fit, as one readable sentence.

    Args:
        status: why the solver stopped.
        bad_blocks: blocks whose numbers were not finite.
        objectives: m at the start and at the end.
        counts: inner steps, curvature-vector products and rises.
    """
    where = f" in block(s) {', '.join(bad_blocks)}" if bad_blocks else ""
    steps, products, rises = counts
    return (
        f"{status.name}{where}: {status.advice} (objective {objectives[0]:.6g} → "
        f"{objectives[1]:.6g}, {steps} steps, {products} products, {rises} rises)"
    )


@dataclass(frozen=True, kw_only=True)
class AbstractInnerSolver(abc.ABC):
    """Minimises m(−U(f) x) over the factors."""

    @abc.abstractmethod
    def solve(self, problem: FactorProblem, factors: BlockFactors) -> SolverResult:
        """Improve the factors.

        Args:
            problem: the inner problem.
            factors: where to start; must be finite.

        Returns:
            The result; its factors are finite and, unless the solver was told otherwise, have an
            objective no higher than the initial one.
        """

    @property
    def initial_ridge(self) -> float:
        """ρ before the first fit, of a solver that adapts it."""
        return 0.0

    @property
    def judges_by_loss(self) -> bool:
        """Does the solver compare losses at the steps it finds."""
        return False

    def check(self, blocks: Sequence[Block]) -> None:  # noqa: B027 - most solvers serve all blocks
        """Raise if this solver cannot serve these blocks.

        Raises:
            ValueError: naming the block and the remedy.
        """


def code(backend: Backend, status: Status, like: Array) -> Array:
    """Return a status as a 0-d integer on the device of ``like``."""
    return backend.integer(int(status), like)


def rounding(like: Array) -> float:
    """Return the relative difference below which two objectives count as equal in this dtype."""
    return 64.0 * machine_epsilon(like)


def share_of_way(backend: Backend, slope: Array, curvature: Array) -> Array:
    """Return the t in [0, 1] that minimises t · slope + ½ t² · curvature."""
    positive = curvature > 0.0
    best = -slope / backend.where(positive, curvature, backend.ones((), curvature))
    clipped = -backend.maximum(-backend.maximum(best, 0.0), -1.0)
    downhill = slope + 0.5 * curvature < 0.0
    end = backend.where(downhill, backend.ones((), slope), backend.zeros((), slope))
    return backend.where(positive, clipped, end)
