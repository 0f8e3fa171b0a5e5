"""A minimisation along lines of factor space, one curvature-vector product at a time.

    before the start → trial at the start → measure the line → trial → nearer trial → … → measure → …

:class:`llqr.solvers.ConjugateGradient` runs these in one loop. Structures that are linear in their factors
need no trials: measuring the line gives the minimum on it.
"""

from __future__ import annotations

from typing import NamedTuple

from llqr import tensors
from llqr.backend import Array, Backend, Tensors, machine_epsilon
from llqr.solvers.base import Status, code
from llqr.solvers.problem import FactorProblem, first_factor, map_factors
from llqr.structures.blocks import BlockFactors

_SHRINK, _TRIES = 0.25, 8


class Point(NamedTuple):
    """Factors, and m with its two gradients there."""

    factors: BlockFactors
    objective: Array
    residual: Tensors
    gradient: BlockFactors


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
        direction: d.
        norm2: squared norm of the gradient in the factors that d was made from.
        line: m along d, once measured.
        measuring: is the next product (C + λI) D, rather than one at a trial point.
        length: where the trial point lies on the line.
        tries: trial points of this line.
        status: see :class:`Status`.
        block_finite: by block, whether the last trial's numbers were finite.
    """

    step: Array
    products: Array
    start: tuple[Array, Array, Tensors]
    point: Point
    direction: BlockFactors
    norm2: Array
    line: Line
    measuring: Array
    length: Array
    tries: Array
    status: Array
    block_finite: dict[str, Array]


class Outcome(NamedTuple):
    """What one product showed.

    Attributes:
        factors: of the candidate.
        objective: m there.
        residual: r there.
        line: m along the direction.
        complete: does the candidate end the iteration, whether it is good or bad.
    """

    factors: BlockFactors
    objective: Array
    residual: Tensors
    line: Line
    complete: Array


def before_the_start(problem: FactorProblem, factors: BlockFactors) -> State:
    """Return a state whose next product evaluates m at the factors, as the only trial on its line."""
    backend, like = problem.backend, first_factor(factors)
    zero, count = backend.zeros((), like), backend.integer(0, like)
    true = count == count
    nothing = map_factors(lambda leaf: 0.0 * leaf, factors)
    residual = tensors.scale(0.0, problem.model.gradient)
    return State(
        step=count - 1,
        products=count,
        start=(zero, zero, residual if problem.bounded else {}),
        point=Point(factors, zero + float("inf"), residual, nothing),
        direction=nothing,
        norm2=zero,
        line=Line(zero, zero, true, true),
        measuring=~true,
        length=zero,
        tries=count + _TRIES - 1,
        status=code(backend, Status.RUNNING, like),
        block_finite={block.name: true for block in problem.blocks},
    )


def measured(
    problem: FactorProblem, state: State, factors: BlockFactors, moved: Tensors, curved: Tensors
) -> Outcome:
    """Return slope, curvature and best length along the direction from D and (C + λI) D.

    Where the structures are linear, the minimiser along the line as well.
    """
    backend, old = problem.backend, state.point
    slope, curvature = tensors.dot(moved, old.residual), tensors.dot(moved, curved)
    # What rounding leaves of ⟨D, (C + λI) D⟩ where the exact value is zero.
    error = tensors.norm(backend, moved) * tensors.norm(backend, curved)
    error = machine_epsilon(error) * error
    positive = curvature > error
    safe = backend.where(positive, curvature, backend.ones((), curvature))
    length = backend.where(positive, -slope / safe, backend.zeros((), slope))
    line = Line(slope, length, positive, backend.isfinite(error + length))
    if not problem.linear_in_factors:
        # A line that leads nowhere ends the search; its curvature tells which block is not finite.
        return Outcome(factors, old.objective, curved, line, ~(line.finite & line.positive))
    factors = map_factors(lambda f, d: f + length * d, factors, state.direction)
    residual = tensors.add_scaled(old.residual, length, curved)
    objective = old.objective + 0.5 * length * slope
    return Outcome(factors, objective, residual, line, positive == positive)


def tried(
    problem: FactorProblem, state: State, factors: BlockFactors, step: Tensors, curved: Tensors
) -> Outcome:
    """Return m at a trial point from δ and (C + λI) δ."""
    residual = tensors.add(problem.model.gradient, curved)
    objective = problem.model.value(step, residual)
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
