"""The watched loop that first-order inner solvers share.

Each inner step costs one curvature-vector product, and one more checks the last step.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

from llqr._checks import check_positive, check_positive_int
from llqr.backend import Array, Backend
from llqr.solvers.base import (
    AbstractInnerSolver,
    SolverResult,
    Status,
    code,
    rounding,
)
from llqr.solvers.problem import FactorProblem, first_factor, map_factors
from llqr.structures.blocks import BlockFactors


class _LoopState(NamedTuple):
    """State of the watched loop. ``best`` holds the factors of the lowest objective so far."""

    step: Array
    factors: BlockFactors
    optimizer: Any
    best: BlockFactors
    best_objective: Array
    start_objective: Array
    objective: Array
    status: Array
    rises: Array
    bad_block: Array


@dataclass(frozen=True, kw_only=True)
class AbstractFirstOrder(AbstractInnerSolver):
    """The watched loop around an update rule.

    Attributes:
        steps: number of inner steps.
        learning_rate: η > 0.
        clip_norm: largest Euclidean norm of each factor's gradient, None for no clipping (paper: 5).
        stop_on_rise: stop and return the best factors once the objective exceeds its starting value.
            Off, the last finite factors are returned whatever the objective; rises are still counted
            and the status still says so.
    """

    steps: int = 50
    learning_rate: float = 1e-3  # η
    clip_norm: float | None = 5.0
    stop_on_rise: bool = True

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("steps", self.steps)
        check_positive("learning_rate", self.learning_rate, 1e-3)
        if self.clip_norm is not None:
            check_positive("clip_norm", self.clip_norm, 5.0)

    @abc.abstractmethod
    def init(self, problem: FactorProblem, factors: BlockFactors) -> Any:
        """Return the update rule's state."""

    @abc.abstractmethod
    def update(
        self, backend: Backend, factors: BlockFactors, gradient: BlockFactors, state: Any
    ) -> tuple[BlockFactors, Any]:
        """Return new factors and state from the clipped gradient."""

    def solve(self, problem: FactorProblem, factors: BlockFactors) -> SolverResult:
        """Take ``steps`` watched steps; see :class:`AbstractInnerSolver`."""
        backend, inputs, like = problem.backend, problem.inputs(), first_factor(factors)
        zero, count = backend.asarray(0.0, like), backend.integer(0, like)
        final = backend.while_loop(
            lambda state: state.status == int(Status.RUNNING),
            lambda state: self._iterate(problem, inputs, state, like),
            _LoopState(
                step=count,
                factors=factors,
                optimizer=self.init(problem, factors),
                best=factors,
                best_objective=backend.asarray(float("inf"), like),
                start_objective=zero,
                objective=zero,
                status=count,
                rises=count,
                bad_block=problem.bad_block(factors),
            ),
        )
        return self._result(backend, final)

    def _iterate(
        self, problem: FactorProblem, inputs: dict[str, Array], state: _LoopState, like: Array
    ) -> _LoopState:
        """Evaluate m at the factors, then move them unless this was the last look."""
        backend, one, zero = problem.backend, problem.backend.integer(1, like), state.step * 0
        objective, gradient = problem.evaluate(inputs, state.factors)[:2]
        squares = map_factors(lambda leaf: (leaf * leaf).sum(), gradient)
        owners, values = problem.owned(squares)
        # Of the squares themselves: another square of theirs would overflow.
        bad_block = problem.first_owner(backend.stack(values) < float("inf"), owners)
        finite = backend.isfinite(objective) & (bad_block < 0)
        first = state.step == 0  # nothing to compare with yet
        start = backend.where(first, objective, state.start_objective)
        rose = (~first) & finite & (objective > state.objective)
        better = finite & (objective < state.best_objective)
        above = objective > start + rounding(like) * abs(start)
        status = self._status(backend, state, finite, above, like)
        moving = status == int(Status.RUNNING)
        clipped = self._clip(backend, gradient, squares)
        updated, optimizer = self.update(backend, state.factors, clipped, state.optimizer)
        return _LoopState(
            step=state.step + backend.where(moving, one, zero),
            factors=backend.select(moving, problem.project(updated), state.factors),
            optimizer=optimizer,
            best=backend.select(better, state.factors, state.best),
            best_objective=backend.where(better, objective, state.best_objective),
            start_objective=start,
            objective=objective,
            status=status,
            rises=state.rises + backend.where(rose, one, zero),
            bad_block=bad_block,
        )

    def _status(
        self, backend: Backend, state: _LoopState, finite: Array, above: Array, like: Array
    ) -> Array:
        """Return the loop's status after evaluating the objective at ``state.factors``."""
        ended = state.step >= self.steps
        done = backend.where(
            ended, code(backend, Status.FINISHED, like), code(backend, Status.RUNNING, like)
        )
        stops = above if self.stop_on_rise else above & ended
        done = backend.where(stops, code(backend, Status.OBJECTIVE_ROSE, like), done)
        return backend.where(finite, done, code(backend, Status.NOT_FINITE, like))

    def _result(self, backend: Backend, final: _LoopState) -> SolverResult:
        """Return the last factors if the loop ended well, else the best ones."""
        keep_last = final.status == int(Status.FINISHED)
        if self.stop_on_rise:
            keep_last = keep_last & (final.objective <= final.start_objective)
        else:
            keep_last = keep_last | (final.status == int(Status.OBJECTIVE_ROSE))
        return SolverResult(
            factors=backend.select(keep_last, final.factors, final.best),
            status=final.status,
            objective_start=final.start_objective,
            objective=backend.where(keep_last, final.objective, final.best_objective),
            steps=final.step,
            products=final.step + 1,
            rises=final.rises,
            bad_block=final.bad_block,
        )

    def _clip(
        self, backend: Backend, gradient: BlockFactors, squares: BlockFactors
    ) -> BlockFactors:
        """Return the gradient with every factor's norm, whose square is given, at most the limit."""
        if self.clip_norm is None:
            return gradient
        limit = float(self.clip_norm)

        def clip(leaf: Array, square: Array) -> Array:
            return leaf * (limit / backend.maximum(backend.sqrt(square), limit))

        return map_factors(clip, gradient, squares)
