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
from llqr._checks import check_fraction, check_positive_int
from llqr.backend import Array, Backend, Tensors, machine_epsilon
from llqr.solvers.base import (
    AbstractInnerSolver,
    SolverResult,
    Status,
    all_true,
    code,
    share_of_way,
)
from llqr.solvers.problem import FactorProblem, dot_factors, first_factor, map_factors
from llqr.structures.blocks import BlockFactors

_SHRINK, _TRIES = 0.25, 8


class _Point(NamedTuple):
    """Factors, and m with its two gradients there."""

    factors: BlockFactors
    objective: Array
    residual: Tensors
    gradient: BlockFactors


class _State(NamedTuple):
    step: Array
    products: Array
    point: _Point
    direction: BlockFactors
    status: Array
    block_finite: dict[str, Array]


class _Trial(NamedTuple):
    """One candidate along the direction, for structures that are not linear in their factors."""

    tries: Array
    length: Array
    factors: BlockFactors
    residual: Tensors
    objective: Array


class _Line(NamedTuple):
    """m along the direction: m + length · slope + ½ length² · ⟨D, (C + λI) D⟩."""

    curved: Tensors  # (C + λI) D
    slope: Array  # ⟨D, r⟩
    length: Array  # α, 0 unless the curvature is positive
    positive: Array
    finite: Array


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
        problem, unit = problem.normalised()
        backend, inputs, like = problem.backend, problem.inputs(), first_factor(factors)
        objective, gradient, residual = problem.evaluate(inputs, factors)
        start = _Point(factors, objective, residual, gradient)
        first_norm2 = dot_factors(gradient, gradient)
        block_finite = problem.finite_blocks(gradient)
        finite = backend.isfinite(objective) & all_true(block_finite)
        vanished = first_norm2 == 0.0
        status = backend.where(
            vanished, code(backend, Status.CONVERGED, like), code(backend, Status.RUNNING, like)
        )
        status = backend.where(finite, status, code(backend, Status.NOT_FINITE, like))
        final = backend.while_loop(
            lambda state: state.status == int(Status.RUNNING),
            lambda state: self._iterate(problem, inputs, state, first_norm2),
            _State(
                step=backend.integer(0, like),
                products=backend.integer(1, like),
                point=start,
                direction=map_factors(lambda leaf: -leaf, gradient),
                status=status,
                block_finite=block_finite,
            ),
        )
        if problem.bounded:
            final = _bound(problem, inputs, start, final)
        return SolverResult(
            factors=final.point.factors,
            status=final.status,
            objective_start=start.objective * unit,
            objective=final.point.objective * unit,
            steps=final.step,
            products=final.products,
            rises=backend.integer(0, like),
            block_finite=final.block_finite,
        )

    def _iterate(
        self, problem: FactorProblem, inputs: dict[str, Array], state: _State, first_norm2: Array
    ) -> _State:
        backend, old = problem.backend, state.point
        line = _measure(problem, inputs, state)
        if problem.linear_in_factors:
            new = _exact(problem, inputs, state, line)
            products = state.products + 1
        else:
            new, tries = _search(problem, inputs, state, line.length)
            products = state.products + 1 + tries
        in_factors = problem.finite_blocks(new.factors)
        in_gradient = problem.finite_blocks(new.gradient)
        block_finite = {name: in_factors[name] & in_gradient[name] for name in in_factors}
        finite = line.finite & backend.isfinite(new.objective) & all_true(block_finite)
        accept = finite & line.positive & (new.objective <= old.objective)
        norm2 = dot_factors(new.gradient, new.gradient)
        old_norm2 = dot_factors(old.gradient, old.gradient)
        beta = backend.maximum((norm2 - dot_factors(new.gradient, old.gradient)) / old_norm2, 0.0)
        small = norm2 <= self.tolerance**2 * first_norm2
        return _State(
            step=backend.where(accept, state.step + 1, state.step),
            products=products,
            point=backend.select(accept, new, old),
            direction=map_factors(lambda g, d: beta * d - g, new.gradient, state.direction),
            status=self._status(problem.backend, state, line, (finite, accept, small)),
            block_finite=block_finite,
        )

    def _status(
        self, backend: Backend, state: _State, line: _Line, flags: tuple[Array, Array, Array]
    ) -> Array:
        """Return the status after one iteration; later assignments take precedence."""
        (finite, accept, small), like, objective = flags, state.step, state.point.objective
        # A decrease that the dtype cannot resolve: there is nothing left to gain.
        unresolved = machine_epsilon(objective) * abs(objective)
        negligible = 0.5 * abs(line.length * line.slope) <= unresolved
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


def _measure(problem: FactorProblem, inputs: dict[str, Array], state: _State) -> _Line:
    """Return slope, curvature and best length along the direction: one product."""
    backend = problem.backend
    moved = problem.step_tangent(inputs, state.point.factors, state.direction)  # D
    curved = problem.model.product(moved)  # (C + λI) D
    slope, curvature = tensors.dot(moved, state.point.residual), tensors.dot(moved, curved)
    # What rounding leaves of ⟨D, (C + λI) D⟩ where the exact value is zero.
    error = tensors.norm(backend, moved) * tensors.norm(backend, curved)
    error = machine_epsilon(error) * error
    positive = curvature > error
    safe = backend.where(positive, curvature, backend.ones((), curvature))
    length = backend.where(positive, -slope / safe, backend.zeros((), slope))
    return _Line(curved, slope, length, positive, backend.isfinite(error + length))


def _exact(problem: FactorProblem, inputs: dict[str, Array], state: _State, line: _Line) -> _Point:
    """Return the minimiser along the line, where the structures are linear: no product."""
    old = state.point
    factors = map_factors(lambda f, d: f + line.length * d, old.factors, state.direction)
    residual = tensors.add_scaled(old.residual, line.length, line.curved)
    objective = old.objective + 0.5 * line.length * line.slope
    return _Point(factors, objective, residual, problem.gradient(inputs, factors, residual))


def _search(
    problem: FactorProblem, inputs: dict[str, Array], state: _State, length: Array
) -> tuple[_Point, Array]:
    """Shrink the length until the objective does not rise; return the point and the products spent."""
    backend, old = problem.backend, state.point

    def attempt(trial: _Trial) -> _Trial:
        factors = map_factors(lambda f, d: f + trial.length * d, old.factors, state.direction)
        step = problem.step(inputs, factors)
        residual = problem.model.residual(step)
        objective = problem.model.value(step, residual)
        return _Trial(trial.tries + 1, trial.length * _SHRINK, factors, residual, objective)

    untried = backend.asarray(float("inf"), old.objective)
    last = backend.while_loop(
        lambda trial: (~(trial.objective <= old.objective)) & (trial.tries < _TRIES),
        attempt,
        _Trial(backend.integer(0, length), length, old.factors, old.residual, untried),
    )
    gradient = problem.gradient(inputs, last.factors, last.residual)
    return _Point(last.factors, last.objective, last.residual, gradient), last.tries


def _bound(
    problem: FactorProblem, inputs: dict[str, Array], start: _Point, final: _State
) -> _State:
    """Return the admissible factors nearest to the final ones, m no higher than at the start.

    From the start towards the projected factors m is a parabola (for linear structures) that both
    residuals determine, so the best point on that way costs no product beyond the projected one's.

    Returns:
        The state with admissible factors, one product later.
    """
    backend = problem.backend
    projected = problem.project(final.point.factors)
    objective, gradient, residual = problem.evaluate(inputs, projected)
    point = _Point(projected, objective, residual, gradient)
    if problem.linear_in_factors:
        way = map_factors(lambda new, old: new - old, projected, start.factors)
        moved = problem.step_tangent(inputs, start.factors, way)
        slope = tensors.dot(moved, start.residual)
        curvature = tensors.dot(moved, residual) - slope
        share = share_of_way(backend, slope, curvature)
        between = _Point(
            map_factors(lambda old, d: old + share * d, start.factors, way),
            start.objective + share * (slope + 0.5 * share * curvature),
            residual,
            gradient,
        )
        point = backend.select(objective <= start.objective, point, between)
    keep = backend.isfinite(point.objective) & (point.objective <= start.objective)
    failed = final.status == int(Status.NOT_FINITE)
    rose = code(backend, Status.OBJECTIVE_ROSE, final.step)
    return final._replace(
        products=final.products + 1,
        point=backend.select(keep, point, start),
        status=backend.where(keep | failed, final.status, rose),
    )
