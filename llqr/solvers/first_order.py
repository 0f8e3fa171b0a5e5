"""First-order inner solvers: gradient descent with momentum (as published) and Adam.

    momentum   v ← μ v + clip(∇f),   f ← f − η v                     (heavy ball; paper: η 1e-3, μ 0.9)
    Adam       f ← f − η m̂ / (√v̂ + ε)

Each inner step costs one curvature-vector product, and one more checks the last step.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

from llqr.backend import Array, Backend
from llqr.solvers.base import (
    AbstractInnerSolver,
    FactorProblem,
    SolverResult,
    Status,
    all_true,
    map_factors,
)
from llqr.structures.base import check_positive_int
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
    block_finite: dict[str, Array]


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
        check_positive_int("inner_steps", self.steps)
        _check_rate("inner learning_rate", self.learning_rate)
        if self.clip_norm is not None:
            _check_rate("clip_norm", self.clip_norm)

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
        backend, inputs = problem.backend, problem.inputs()
        like = next(iter(next(iter(factors.values())).values()))
        zero, count = backend.asarray(0.0, like), backend.integer(0, like)
        huge = backend.asarray(float("inf"), like)

        def body(state: _LoopState) -> _LoopState:
            objective, gradient, _ = problem.evaluate(inputs, state.factors)
            finite_blocks = problem.finite_blocks(gradient)
            finite = backend.isfinite(objective) & all_true(finite_blocks)
            first = state.step == 0
            start = backend.where(first, objective, state.start_objective)
            rose = (~first) & finite & (objective > state.objective)
            above = (~first) & finite & (objective > start + _slack(like) * abs(start))
            better = finite & (objective < state.best_objective)
            status = self._status(backend, state, finite, above, like)
            updated, optimizer = self.update(
                backend, state.factors, self._clip(backend, gradient), state.optimizer
            )
            move = (status == int(Status.RUNNING)) & finite
            return _LoopState(
                step=state.step + backend.where(move, count + 1, count),
                factors=backend.select(move, problem.project(updated), state.factors),
                optimizer=optimizer,
                best=backend.select(better, state.factors, state.best),
                best_objective=backend.where(better, objective, state.best_objective),
                start_objective=start,
                objective=objective,
                status=status,
                rises=state.rises + backend.where(rose, count + 1, count),
                block_finite=finite_blocks,
            )

        final = backend.while_loop(
            lambda state: state.status == int(Status.RUNNING),
            body,
            _LoopState(
                step=count,
                factors=factors,
                optimizer=self.init(problem, factors),
                best=factors,
                best_objective=huge,
                start_objective=zero,
                objective=zero,
                status=count,
                rises=count,
                block_finite=problem.finite_blocks(factors),
            ),
        )
        return self._result(backend, final)

    def _status(
        self, backend: Backend, state: _LoopState, finite: Array, above: Array, like: Array
    ) -> Array:
        """Return the loop's status after evaluating the objective at ``state.factors``."""

        def code(status: Status) -> Array:
            return backend.integer(int(status), like)

        done = backend.where(state.step >= self.steps, code(Status.FINISHED), code(Status.RUNNING))
        if self.stop_on_rise:
            done = backend.where(above, code(Status.OBJECTIVE_ROSE), done)
        else:
            ended = (state.step >= self.steps) & above
            done = backend.where(ended, code(Status.OBJECTIVE_ROSE), done)
        return backend.where(finite, done, code(Status.NOT_FINITE))

    def _result(self, backend: Backend, final: _LoopState) -> SolverResult:
        keep_last = final.status == int(Status.FINISHED)
        if not self.stop_on_rise:
            keep_last = keep_last | (final.status == int(Status.OBJECTIVE_ROSE))
        return SolverResult(
            factors=backend.select(keep_last, final.factors, final.best),
            status=final.status,
            objective_start=final.start_objective,
            objective=backend.where(keep_last, final.objective, final.best_objective),
            steps=final.step,
            products=final.step + 1,
            rises=final.rises,
            block_finite=final.block_finite,
        )

    def _clip(self, backend: Backend, gradient: BlockFactors) -> BlockFactors:
        if self.clip_norm is None:
            return gradient

        def clip(leaf: Array) -> Array:
            norm = backend.sqrt((leaf * leaf).sum())
            return leaf * (self.clip_norm / backend.maximum(norm, self.clip_norm))

        return map_factors(clip, gradient)


@dataclass(frozen=True, kw_only=True)
class GradientDescent(AbstractFirstOrder):
    """Gradient descent with heavy-ball momentum.

    Attributes:
        momentum: μ in [0, 1).
    """

    momentum: float = 0.9  # μ

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        _check_fraction("momentum", self.momentum)

    def init(self, problem: FactorProblem, factors: BlockFactors) -> BlockFactors:
        """Return v = 0."""
        return map_factors(lambda leaf: 0.0 * leaf, factors)

    def update(
        self, backend: Backend, factors: BlockFactors, gradient: BlockFactors, state: Any
    ) -> tuple[BlockFactors, Any]:
        """Return f − η v with v ← μ v + ∇f."""
        velocity = map_factors(lambda v, g: self.momentum * v + g, state, gradient)
        return map_factors(lambda f, v: f - self.learning_rate * v, factors, velocity), velocity


class _AdamState(NamedTuple):
    first: BlockFactors
    second: BlockFactors
    correction: tuple[Array, Array]  # β₁ᵗ, β₂ᵗ


@dataclass(frozen=True, kw_only=True)
class Adam(AbstractFirstOrder):
    """Adam in the factors. It can drift on flat objectives; rises are counted and watched.

    Attributes:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        epsilon: added to the root of the second moment, > 0.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        _check_fraction("b1", self.b1)
        _check_fraction("b2", self.b2)
        _check_rate("epsilon", self.epsilon)

    def init(self, problem: FactorProblem, factors: BlockFactors) -> _AdamState:
        """Return zero moments."""
        like = next(iter(next(iter(factors.values())).values()))
        zeros = map_factors(lambda leaf: 0.0 * leaf, factors)
        one = problem.backend.asarray(1.0, like)
        return _AdamState(zeros, zeros, (one, one))

    def update(
        self, backend: Backend, factors: BlockFactors, gradient: BlockFactors, state: Any
    ) -> tuple[BlockFactors, Any]:
        """Return f − η m̂ / (√v̂ + ε)."""
        first = map_factors(lambda m, g: self.b1 * m + (1.0 - self.b1) * g, state.first, gradient)
        second = map_factors(
            lambda v, g: self.b2 * v + (1.0 - self.b2) * g * g, state.second, gradient
        )
        c1, c2 = state.correction[0] * self.b1, state.correction[1] * self.b2

        def move(f: Array, m: Array, v: Array) -> Array:
            return f - self.learning_rate * (m / (1.0 - c1)) / (
                backend.sqrt(v / (1.0 - c2)) + self.epsilon
            )

        return map_factors(move, factors, first, second), _AdamState(first, second, (c1, c2))


def _slack(like: Array) -> float:
    """Return the relative rounding error below which two objectives count as equal."""
    return 1e-12 if "64" in str(like.dtype) else 1e-5


def _check_rate(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and 0.0 < value < float("inf")):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}; pass e.g. 1e-3")


def _check_fraction(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and 0.0 <= value < 1.0):
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}; the usual value is 0.9")
