"""Conjugate gradient in the factors with an exact step length.

With direction d in factor space and D = dδ/df · d the step it causes, m is (for structures linear in
their factors, exactly) quadratic along d:

    α = −⟨D, r⟩ / ⟨D, (C + λI) D⟩,   r = g + (C + λI) δ,   β = max(0, ⟨∇⁺, ∇⁺ − ∇⟩ / ⟨∇, ∇⟩)

For linear structures one product per iteration serves both α and the new r. For the others (Kronecker,
EKFAC, low-rank with a learned projection) the same α is a Gauss-Newton guess in factor space: a second
product evaluates m there, and α shrinks by 4 while m would rise.

All products, the first evaluation included, are taken at one place in one loop: where a fit is compiled, the
network's derivatives are most of the program, and each place would hold a copy of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from llqr._checks import check_fraction, check_positive_int
from llqr.backend import Array, Backend, machine_epsilon
from llqr.solvers.base import AbstractInnerSolver, SolverResult, Status, code, share_of_way
from llqr.solvers.line_search import (
    Line,
    Outcome,
    Point,
    State,
    before_the_start,
    continued,
    measured,
    tried,
)
from llqr.solvers.packing import PackedProblem, dot
from llqr.solvers.problem import FactorProblem
from llqr.structures.blocks import BlockFactors


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient(AbstractInnerSolver):
    """Polak-Ribière conjugate gradient with exact curvature along the direction.

    The objective never rises: a linear problem cannot, and a trial that would is not taken.

    Attributes:
        steps: largest number of iterations.
        tolerance: stop once the gradient's norm is below this fraction of the first one's, in [0, 1).
            What the dtype cannot resolve counts as zero whatever the tolerance.
    """

    steps: int = 10
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("steps", self.steps)
        check_fraction("tolerance", self.tolerance, 1e-6)

    def solve(self, problem: FactorProblem, factors: BlockFactors) -> SolverResult:
        """Iterate; see :class:`AbstractInnerSolver`."""
        normalised, unit = problem.normalised()
        packed = PackedProblem(normalised, factors)
        start = packed.join(factors)
        final = packed.backend.while_loop(
            lambda state: state.status == int(Status.RUNNING),
            lambda state: self._advance(packed, state),
            before_the_start(packed, start),
        )
        bad_block = packed.bad_block(final.direction)
        objective_start = final.start[0]
        if packed.bounded:
            final = _bound(packed, start, final)
        return SolverResult(
            factors=packed.split(final.point.factors),
            status=final.status,
            objective_start=objective_start * unit,
            objective=final.point.objective * unit,
            steps=final.step,
            products=final.products,
            rises=0 * final.step,
            bad_block=bad_block,
        )

    def _advance(self, problem: PackedProblem, state: State) -> State:
        """Take one product and what follows from it."""
        backend, old = problem.backend, state.point

        def tangent(direction: Array) -> tuple[Array, Array]:
            return old.factors, problem.step_tangent(old.factors, direction)

        def trial(direction: Array) -> tuple[Array, Array]:
            factors = old.factors + state.length * direction
            return factors, problem.step(factors)

        factors, vector = backend.cond(state.measuring, tangent, trial, state.direction)
        outcome = backend.cond(
            state.measuring,
            lambda found: measured(problem, state, *found),
            lambda found: tried(problem, state, *found),
            (factors, vector, problem.product(vector)),
        )
        state = state._replace(products=state.products + 1)
        return backend.cond(
            outcome.complete,
            lambda found: self._completed(problem, state, found),
            lambda found: continued(backend, state, found),
            outcome,
        )

    def _completed(self, problem: PackedProblem, state: State, found: Outcome) -> State:
        """Return the state after an iteration: the candidate is taken or the search ends."""
        backend, old, starting = problem.backend, state.point, state.step < 0
        gradient = problem.gradient(found.factors, found.residual)
        new = Point(found.factors, found.objective, found.residual, gradient)
        norm2, size2 = dot(backend, gradient, gradient), dot(backend, new.factors, new.factors)
        finite = (
            found.line.finite & backend.isfinite(new.objective + norm2) & backend.isfinite(size2)
        )
        accept = finite & found.line.positive & (new.objective <= old.objective)
        turned = norm2 - dot(backend, gradient, old.gradient)
        one = backend.ones((), norm2)
        # At the start there is no direction yet to be multiplied.
        beta = backend.maximum(turned / backend.where(starting, one, state.norm2), 0.0)
        beta = backend.where(finite, beta, 0.0 * one)
        objective, first_norm2, residual = state.start
        small = norm2 <= self.tolerance**2 * first_norm2
        return state._replace(
            step=backend.where(accept | starting, state.step + 1, state.step),
            start=(
                backend.where(starting, new.objective, objective),
                backend.where(starting, norm2, first_norm2),
                backend.where(starting, new.residual, residual) if problem.bounded else residual,
            ),
            # What the start is like is known whether or not it is finite.
            point=backend.select(accept | starting, new, old),
            direction=beta * state.direction - gradient,
            norm2=norm2,
            line=found.line,
            measuring=starting | ~starting,  # true, as an array
            status=self._status(backend, state, found.line, (finite, accept, small)),
        )

    def _status(
        self, backend: Backend, state: State, line: Line, flags: tuple[Array, Array, Array]
    ) -> Array:
        """Return the status after one iteration; later assignments take precedence."""
        (finite, accept, small), like, objective = flags, state.step, state.point.objective
        # A decrease that the dtype cannot resolve: there is nothing left to gain.
        unresolved = machine_epsilon(objective) * abs(objective)
        negligible = (state.step >= 0) & (0.5 * abs(line.length * line.slope) <= unresolved)
        status = code(backend, Status.RUNNING, like)
        for condition, outcome in (
            (state.step + 1 >= self.steps, Status.FINISHED),
            (~accept, Status.OBJECTIVE_ROSE),
            (negligible | (accept & small), Status.CONVERGED),
            (~line.positive, Status.NEGATIVE_CURVATURE),
            (~finite, Status.NOT_FINITE),
        ):
            status = backend.where(condition, code(backend, outcome, like), status)
        return status


def _bound(problem: PackedProblem, start: Array, final: State) -> State:
    """Return the admissible factors nearest to the final ones, m no higher than at the start.

    From the start towards the projected factors m is a parabola (for linear structures) that both
    residuals determine, so the best point on that way costs no product beyond the projected one's.

    Returns:
        The state with admissible factors, one product later.
    """
    backend, (start_objective, _, start_residual) = problem.backend, final.start
    projected = problem.project(final.point.factors)
    step = problem.step(projected)
    residual = problem.loss_gradient + problem.product(step)
    objective = problem.value(step, residual)
    # Nothing is asked of the gradient any more.
    point = Point(projected, objective, residual, final.point.gradient)
    if problem.linear_in_factors:
        way = projected - start
        moved = problem.step_tangent(start, way)
        slope = dot(backend, moved, start_residual)
        curvature = dot(backend, moved, residual) - slope
        share = share_of_way(backend, slope, curvature)
        between = point._replace(
            factors=start + share * way,
            objective=start_objective + share * (slope + 0.5 * share * curvature),
        )
        point = backend.select(objective <= start_objective, point, between)
    keep = backend.isfinite(point.objective) & (point.objective <= start_objective)
    failed = final.status == int(Status.NOT_FINITE)
    rose = code(backend, Status.OBJECTIVE_ROSE, final.step)
    before = point._replace(factors=start, objective=start_objective)
    return final._replace(
        products=final.products + 1,
        point=backend.select(keep, point, before),
        status=backend.where(keep | failed, final.status, rose),
    )
