"""Conjugate gradient in the factors with an exact step length.

With direction d in factor space and D = dδ/df · d the step it causes, m is (for structures linear in
their factors, exactly) quadratic along d:

    α = −⟨D, r⟩ / ⟨D, (C + λI) D⟩,   r = g + (C + λI) δ,   β = max(0, ⟨∇⁺, ∇⁺ − ∇⟩ / ⟨∇, ∇⟩)

For linear structures one product per iteration serves both α and the new r. For the others (Kronecker,
EKFAC, low-rank with a learned projection) the same α is a Gauss-Newton guess in factor space: a second
product evaluates m there, and α shrinks by 4 while m would rise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llqr import tensors
from llqr.backend import Array, Backend, Tensors
from llqr.solvers.base import (
    AbstractInnerSolver,
    FactorProblem,
    SolverResult,
    Status,
    all_true,
    dot_factors,
    map_factors,
)
from llqr.structures.base import check_positive_int
from llqr.structures.blocks import BlockFactors

_SHRINK, _TRIES = 0.25, 8


class _State(NamedTuple):
    step: Array
    products: Array
    factors: BlockFactors
    residual: Tensors
    gradient: BlockFactors
    direction: BlockFactors
    objective: Array
    status: Array
    block_finite: dict[str, Array]


class _Trial(NamedTuple):
    """One candidate along the direction, for structures that are not linear in their factors."""

    tries: Array
    length: Array
    factors: BlockFactors
    residual: Tensors
    objective: Array


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient(AbstractInnerSolver):
    """Polak-Ribière conjugate gradient with exact curvature along the direction.

    The objective never rises: a linear problem cannot, and a trial that would is not taken.

    Attributes:
        steps: largest number of iterations.
        tolerance: stop once the gradient's norm is below this fraction of the first one's, ≥ 0.
    """

    steps: int = 10
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("inner_steps", self.steps)
        if not 0.0 <= self.tolerance < 1.0:
            raise ValueError(f"tolerance must lie in [0, 1), got {self.tolerance!r}; try 1e-6")

    def solve(self, problem: FactorProblem, factors: BlockFactors) -> SolverResult:
        """Iterate; see :class:`AbstractInnerSolver`."""
        backend, inputs = problem.backend, problem.inputs()
        like = next(iter(next(iter(factors.values())).values()))
        count = backend.integer(0, like)
        objective, gradient, residual = problem.evaluate(inputs, factors)
        finite_blocks = problem.finite_blocks(gradient)
        finite = backend.isfinite(objective) & all_true(finite_blocks)
        first_norm2 = dot_factors(gradient, gradient)
        running, bad = self._code(backend, like, Status.RUNNING), Status.NOT_FINITE
        status = backend.where(finite, running, self._code(backend, like, bad))
        status = backend.where(
            finite & (first_norm2 == 0.0), self._code(backend, like, Status.CONVERGED), status
        )
        final = backend.while_loop(
            lambda state: state.status == int(Status.RUNNING),
            lambda state: self._iterate(problem, inputs, state, first_norm2, like),
            _State(
                step=count,
                products=count + 1,
                factors=factors,
                residual=residual,
                gradient=gradient,
                direction=map_factors(lambda leaf: -leaf, gradient),
                objective=objective,
                status=status,
                block_finite=finite_blocks,
            ),
        )
        return self._finish(problem, inputs, factors, objective, final, like)

    def _iterate(
        self,
        problem: FactorProblem,
        inputs: dict[str, Array],
        state: _State,
        first_norm2: Array,
        like: Array,
    ) -> _State:
        backend = problem.backend
        moved = problem.step_tangent(inputs, state.factors, state.direction)  # D
        curved = problem.model.product(moved)  # (C + λI) D
        slope, curvature = tensors.dot(moved, state.residual), tensors.dot(moved, curved)
        positive = curvature > 0.0
        length = backend.where(positive, -slope / backend.where(positive, curvature, 1.0), 0.0)
        if problem.linear_in_factors:
            factors = map_factors(lambda f, d: f + length * d, state.factors, state.direction)
            residual = tensors.add_scaled(state.residual, length, curved)
            objective = state.objective + 0.5 * length * slope
            products = state.products + 1
        else:
            trial = self._search(problem, inputs, state, length, like)
            factors, residual, objective = trial.factors, trial.residual, trial.objective
            products = state.products + 1 + trial.tries
        gradient = problem.gradient(inputs, factors, residual)
        finite_blocks = problem.finite_blocks(factors)
        finite = (
            backend.isfinite(objective)
            & all_true(finite_blocks)
            & all_true(problem.finite_blocks(gradient))
            & backend.isfinite(curvature)
        )
        accept = finite & positive & (objective <= state.objective)
        old_norm2, new_norm2 = (
            dot_factors(state.gradient, state.gradient),
            dot_factors(gradient, gradient),
        )
        ratio = (new_norm2 - dot_factors(gradient, state.gradient)) / old_norm2
        beta = backend.maximum(ratio, 0.0)
        direction = map_factors(lambda g, d: beta * d - g, gradient, state.direction)
        status = self._next_status(
            backend, like, state, (finite, positive, accept), new_norm2, first_norm2
        )
        fresh = state._replace(
            factors=factors,
            residual=residual,
            gradient=gradient,
            direction=direction,
            objective=objective,
        )
        chosen = backend.select(accept, fresh, state)
        return chosen._replace(
            step=state.step + backend.where(accept, 1, 0),
            products=products,
            status=status,
            block_finite=finite_blocks,
        )

    def _next_status(
        self,
        backend: Backend,
        like: Array,
        state: _State,
        flags: tuple[Array, Array, Array],
        norm2: Array,
        first_norm2: Array,
    ) -> Array:
        finite, positive, accept = flags
        small = norm2 <= self.tolerance**2 * first_norm2
        status = self._code(backend, like, Status.RUNNING)
        finished = state.step + 1 >= self.steps
        status = backend.where(finished, self._code(backend, like, Status.FINISHED), status)
        status = backend.where(small, self._code(backend, like, Status.CONVERGED), status)
        status = backend.where(accept, status, self._code(backend, like, Status.OBJECTIVE_ROSE))
        status = backend.where(
            positive, status, self._code(backend, like, Status.NEGATIVE_CURVATURE)
        )
        return backend.where(finite, status, self._code(backend, like, Status.NOT_FINITE))

    def _search(
        self,
        problem: FactorProblem,
        inputs: dict[str, Array],
        state: _State,
        length: Array,
        like: Array,
    ) -> _Trial:
        """Shrink the step length until the objective does not rise."""
        backend = problem.backend

        def attempt(trial: _Trial) -> _Trial:
            factors = map_factors(lambda f, d: f + trial.length * d, state.factors, state.direction)
            step = problem.step(inputs, factors)
            residual = problem.model.residual(step)
            return _Trial(
                trial.tries + 1,
                trial.length * _SHRINK,
                factors,
                residual,
                problem.model.value(step, residual),
            )

        first = attempt(
            _Trial(backend.integer(0, like), length, state.factors, state.residual, state.objective)
        )
        return backend.while_loop(
            lambda trial: (~(trial.objective <= state.objective)) & (trial.tries < _TRIES),
            attempt,
            first,
        )

    def _finish(
        self,
        problem: FactorProblem,
        inputs: dict[str, Array],
        start: BlockFactors,
        start_objective: Array,
        final: _State,
        like: Array,
    ) -> SolverResult:
        """Project onto the admissible factors; keep the initial ones should that raise m above them."""
        backend = problem.backend
        factors, objective, status, products = (
            final.factors,
            final.objective,
            final.status,
            final.products,
        )
        if problem.projects:
            projected = problem.project(factors)
            step = problem.step(inputs, projected)
            value = problem.model.value(step, problem.model.residual(step))
            products = products + 1
            keep = backend.isfinite(value) & (value <= start_objective)
            factors = backend.select(keep, projected, start)
            objective = backend.where(keep, value, start_objective)
            status = backend.where(
                keep | (status == int(Status.NOT_FINITE)),
                status,
                self._code(backend, like, Status.OBJECTIVE_ROSE),
            )
        return SolverResult(
            factors=factors,
            status=status,
            objective_start=start_objective,
            objective=objective,
            steps=final.step,
            products=products,
            rises=backend.integer(0, like),
            block_finite=final.block_finite,
        )

    @staticmethod
    def _code(backend: Backend, like: Array, status: Status) -> Array:
        return backend.integer(int(status), like)
