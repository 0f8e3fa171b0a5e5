"""A minimisation along lines of factor space, one curvature-vector product at a time.

    before the start → trial at the start → measure the line → trial → nearer trial → … → measure → …

:class:`llqr.solvers.ConjugateGradient` runs these in one loop. Structures that are linear in their factors
need no trials: measuring the line gives the minimum on it.
"""

from __future__ import annotations

from typing import NamedTuple

from llqr.backend import Array, Backend, machine_epsilon
from llqr.solvers.base import Status, code
from llqr.solvers.packing import PackedProblem, dot

_SHRINK, _TRIES = 0.25, 8


class Point(NamedTuple):
    """Factors [n], and m with its gradients in the step [p] and in the factors [n] there."""

    factors: Array
    objective: Array
    residual: Array
    gradient: Array


class Line(NamedTuple):
    """m along the direction: m + length · slope + ½ length² · ⟨D, (C + λI) D⟩."""

    slope: Array  # ⟨D, r⟩
    length: Array  # α, 0 unless the curvature is positive
    positive: Array
    finite: Array


class State(NamedTuple):
    """Between two products.

    Attributes:
        step: iterations done, −1 before the first evaluation.
        products: products spent.
        start: objective, squared gradient norm and, for bounded structures, residual at the start.
        point: the best point.
        direction: d [n]; after numbers that are not finite, the gradient that held them.
        norm2: squared norm of the gradient in the factors that d was made from.
        line: m along d, once measured.
        measuring: is the next product (C + λI) D, rather than one at a trial point.
        length: where the trial point lies on the line.
        tries: trial points of this line.
        status: see :class:`Status`.
    """

    step: Array
    products: Array
    start: tuple[Array, Array, Array]
    point: Point
    direction: Array
    norm2: Array
    line: Line
    measuring: Array
    length: Array
    tries: Array
    status: Array


class Outcome(NamedTuple):
    """What one product showed.

    Attributes:
        factors: of the candidate.
        objective: m there.
        residual: r there.
        line: m along the direction.
        complete: does the candidate end the iteration, whether it is good or bad.
    """

    factors: Array
    objective: Array
    residual: Array
    line: Line
    complete: Array


def before_the_start(problem: PackedProblem, factors: Array) -> State:
    """Return a state whose next product evaluates m at the factors, as the only trial on its line."""
    backend = problem.backend
    zero, count = backend.zeros((), factors), backend.integer(0, factors)
    true = count == count
    nothing, residual = 0.0 * factors, 0.0 * problem.loss_gradient
    return State(
        step=count - 1,
        products=count,
        start=(zero, zero, residual if problem.bounded else zero),
        point=Point(factors, zero + float("inf"), residual, nothing),
        direction=nothing,
        norm2=zero,
        line=Line(zero, zero, true, true),
        measuring=~true,
        length=zero,
        tries=count + _TRIES - 1,
        status=code(backend, Status.RUNNING, factors),
    )


def measured(
    problem: PackedProblem, state: State, factors: Array, moved: Array, curved: Array
) -> Outcome:
    """Return slope, curvature and best length along the direction from D and (C + λI) D.

    Where the structures are linear, the minimiser along the line as well.
    """
    backend, old = problem.backend, state.point
    slope, curvature = dot(backend, moved, old.residual), dot(backend, moved, curved)
    # What rounding leaves of ⟨D, (C + λI) D⟩ where the exact value is zero.
    moved_norm, curved_norm = backend.norms([moved, curved])
    error = machine_epsilon(curvature) * (moved_norm * curved_norm)
    positive = curvature > error
    safe = backend.where(positive, curvature, backend.ones((), curvature))
    length = backend.where(positive, -slope / safe, backend.zeros((), slope))
    line = Line(slope, length, positive, backend.isfinite(error + length))
    if not problem.linear_in_factors:
        # A line that leads nowhere ends the search; its curvature tells which block is not finite.
        return Outcome(factors, old.objective, curved, line, ~(line.finite & line.positive))
    factors, residual = factors + length * state.direction, old.residual + length * curved
    objective = old.objective + 0.5 * length * slope
    return Outcome(factors, objective, residual, line, positive == positive)


def tried(
    problem: PackedProblem, state: State, factors: Array, step: Array, curved: Array
) -> Outcome:
    """Return m at a trial point from δ and (C + λI) δ."""
    residual = problem.loss_gradient + curved
    objective = problem.value(step, residual)
    enough = (objective <= state.point.objective) | (state.tries + 1 >= _TRIES)
    return Outcome(factors, objective, residual, state.line, enough)


def continued(backend: Backend, state: State, found: Outcome) -> State:
    """Return the state before a trial: the first on a line at its best length, the next one nearer by."""
    zero = 0 * state.tries
    return state._replace(
        line=found.line,
        measuring=zero != zero,  # false, as an array
        length=backend.where(state.measuring, found.line.length, _SHRINK * state.length),
        tries=backend.where(state.measuring, zero, state.tries + 1),
    )
