"""Conjugate gradient against dense minimisers, and its safety."""

import itertools

import numpy as np
import pytest

from llqr.quadratic import QuadraticModel
from llqr.solvers import ConjugateGradient, FactorProblem, Status, line_search
from llqr.structures import (
    EKFAC,
    Dense,
    Diagonal,
    Kronecker,
    LowRank,
    Scalar,
    SeparableEKFAC,
    Span,
)
from llqr.structures.blocks import make_blocks
from tests.solvers.quadratics import BACKEND, SIZE, Case, flatten, spd, unflatten, vector

LINEAR = {
    "scalar": Scalar(),
    "diagonal": Diagonal(),
    "dense": Dense(),
    "low_rank": LowRank(rank=2, learn_projection=False),
    "span": Span(),
    "mixed": lambda name, shape: Diagonal() if len(shape) > 1 else Scalar(per="parameter"),
}
CURVED = [Kronecker(), EKFAC(), SeparableEKFAC(), LowRank(rank=2)]


@pytest.mark.parametrize("key", LINEAR)
@pytest.mark.parametrize("damping", [0.0, 2.0])
def test_linear_structures_reach_the_exact_minimum_in_as_many_steps_as_factors(rng, key, damping):
    case = Case(rng, LINEAR[key], damping=damping)
    matrix, _ = case.normal_equations()
    rank = np.linalg.matrix_rank(matrix)
    solver = ConjugateGradient(steps=int(rank) + 3, tolerance=1e-12)
    result = solver.solve(case.problem, case.start())
    # Minimum over f of m(−(x₀ + D f)), by least squares.
    columns = case.directions()
    base = -vector_step(case)
    offset = base - columns @ vector(case, case.start())
    full = case.matrix + damping * np.eye(SIZE)
    right = columns.T @ (case.gradient - full @ offset)
    best = np.linalg.lstsq(columns.T @ full @ columns, right, rcond=1e-12)[0]
    step = -(offset + columns @ best)
    minimum = case.gradient @ step + 0.5 * step @ full @ step
    np.testing.assert_allclose(result.objective, minimum, rtol=1e-9)
    np.testing.assert_allclose(case.objective(result.factors), minimum, rtol=1e-9)
    assert int(result.rises) == 0


def vector_step(case):
    """Return δ at the identity, as one vector."""
    return flatten(case.problem.step(case.problem.inputs(), case.start()))


@pytest.mark.parametrize("structure", CURVED, ids=lambda s: f"{type(s).__name__}")
def test_curved_structures_descend_at_every_budget(rng, structure):
    case = Case(rng, structure, damping=0.1)
    objectives = [case.objective(case.start())]
    for steps in (1, 2, 4, 8, 16):
        result = ConjugateGradient(steps=steps).solve(case.problem, case.start())
        np.testing.assert_allclose(result.objective, case.objective(result.factors), rtol=1e-10)
        objectives.append(float(result.objective))
    assert all(after < before for before, after in itertools.pairwise(objectives))


@pytest.mark.parametrize("structure", CURVED, ids=lambda s: f"{type(s).__name__}")
def test_curved_structures_reach_a_stationary_point(rng, structure):
    case = Case(rng, structure, damping=1.0, matrix=spd(rng, condition=5.0))
    result = ConjugateGradient(steps=400, tolerance=1e-7).solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.CONVERGED
    inputs = case.problem.inputs()
    _, first, _ = case.problem.evaluate(inputs, case.start())
    _, last, _ = case.problem.evaluate(inputs, result.factors)
    ratio = np.linalg.norm(vector(case, last)) / np.linalg.norm(vector(case, first))
    assert ratio < 1e-5


@pytest.mark.parametrize("structure", [Diagonal(), Diagonal(floor=0.1), Kronecker()])
def test_products_are_counted_as_spent(rng, structure):
    case = Case(rng, structure)
    result = ConjugateGradient(steps=6, tolerance=0.0).solve(case.problem, case.start())
    assert int(result.products) == case.products
    if structure == Diagonal():
        assert case.products == 7


def test_one_factor_needs_one_step(rng):
    gradient = {"w": rng.standard_normal((2, 3))}
    model = QuadraticModel(gradient=gradient, curvature_product=lambda v: {"w": 4.0 * v["w"]})
    blocks = make_blocks({"w": (2, 3)}, Scalar())
    problem = FactorProblem(BACKEND, model, blocks, {"input": gradient})
    result = ConjugateGradient(steps=5).solve(problem, {"w": {"s": np.ones(1)}})
    assert Status(int(result.status)) is Status.CONVERGED and int(result.steps) == 1
    np.testing.assert_allclose(result.factors["w"]["s"], 0.25, rtol=1e-14)


def test_starting_at_the_minimum_converges_at_once(rng):
    case = Case(rng, Diagonal())
    first = ConjugateGradient(steps=60, tolerance=1e-13).solve(case.problem, case.start())
    again = ConjugateGradient(steps=60, tolerance=0.0).solve(case.problem, first.factors)
    assert Status(int(again.status)) is Status.CONVERGED
    assert float(again.objective) <= float(again.objective_start)
    np.testing.assert_allclose(vector(case, again.factors), vector(case, first.factors), rtol=1e-6)


def test_zero_sources_leave_the_factors(rng):
    case = Case(rng, Diagonal(), scale=0.0)
    result = ConjugateGradient().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.CONVERGED and int(result.products) == 1
    np.testing.assert_array_equal(vector(case, result.factors), 1.0)


@pytest.mark.parametrize("magnitude", [1e-16, 1e-10, 1.0, 1e14])
def test_small_and_large_gradients_do_not_underflow_float32(rng, magnitude):
    """Factors do not depend on the unit of the loss: m scales, its minimiser does not."""
    case = Case(rng, Diagonal(), matrix=spd(rng, condition=3.0))
    expected = ConjugateGradient(steps=4).solve(case.problem, case.start())
    matrix = case.matrix.astype(np.float32)
    gradient = unflatten((magnitude * case.gradient).astype(np.float32))
    model = QuadraticModel(
        gradient=gradient, curvature_product=lambda v: unflatten(matrix @ flatten(v))
    )
    problem = FactorProblem(BACKEND, model, case.blocks, {"input": gradient})
    start = {b: {n: v.astype(np.float32) for n, v in o.items()} for b, o in case.start().items()}
    result = ConjugateGradient(steps=4).solve(problem, start)
    assert vector(case, result.factors).dtype == np.float32
    np.testing.assert_allclose(
        vector(case, result.factors), vector(case, expected.factors), rtol=3e-4, atol=3e-5
    )


@pytest.mark.parametrize("structure", [Diagonal(), Kronecker()])
def test_an_update_that_does_not_shrink_with_the_gradient_does_not_overflow_float32(rng, structure):
    """Adam's direction is of order one when the gradient has all but vanished."""
    case = Case(rng, structure, matrix=spd(rng, condition=3.0))
    matrix, x = case.matrix.astype(np.float32), unflatten(case.update.astype(np.float32))
    start = {b: {n: v.astype(np.float32) for n, v in o.items()} for b, o in case.start().items()}

    def fitted(magnitude):
        model = QuadraticModel(
            gradient=unflatten((magnitude * case.gradient).astype(np.float32)),
            curvature_product=lambda v: unflatten(matrix @ flatten(v)),
        )
        problem = FactorProblem(BACKEND, model, case.blocks, {"input": x})
        return ConjugateGradient(steps=4).solve(problem, start)

    result, limit = fitted(1e-15), fitted(0.0)
    assert Status(int(result.status)) is Status.FINISHED
    # The quadratic term alone is left, which the factors bring down.
    np.testing.assert_allclose(vector(case, result.factors), vector(case, limit.factors), rtol=1e-4)
    assert float(result.objective) < 0.1 * float(result.objective_start)


def test_a_floor_is_kept_and_the_objective_does_not_rise(rng):
    free = Case(rng, Diagonal())
    case = Case(np.random.default_rng(0), Diagonal(floor=0.3))
    case.matrix[:], case.gradient[:] = free.matrix, free.gradient
    unbounded = ConjugateGradient(steps=30).solve(free.problem, free.start())
    assert vector(free, unbounded.factors).min() < 0.3  # so the floor matters here
    result = ConjugateGradient(steps=30).solve(case.problem, case.start())
    assert vector(case, result.factors).min() >= 0.3
    assert case.objective(result.factors) <= case.objective(case.start())
    np.testing.assert_allclose(result.objective, case.objective(result.factors), rtol=1e-10)


def test_a_projection_that_leads_uphill_goes_part_of_the_way():
    """From a good start, clipping the unbounded optimum would raise m; half the way lowers it."""
    rng = np.random.default_rng(3)
    case = Case(rng, Diagonal(floor=0.0), matrix=spd(rng, condition=1e4))
    solver = ConjugateGradient(steps=60, tolerance=1e-12)
    unbounded = Case(np.random.default_rng(3), Diagonal(), matrix=case.matrix)
    unbounded.gradient[:] = case.gradient
    optimum = solver.solve(unbounded.problem, unbounded.start()).factors
    clipped = case.problem.project(optimum)
    # Start close to the minimum over d ≥ 0, found by projected gradient.
    factors = case.start()
    inputs = case.problem.inputs()
    rate = 1.0 / np.linalg.eigvalsh(case.normal_equations()[0]).max()
    for _ in range(3000):
        _, gradient, _ = case.problem.evaluate(inputs, factors)
        factors = case.problem.project(
            {
                b: {n: f - rate * gradient[b][n] for n, f in own.items()}
                for b, own in factors.items()
            }
        )
    assert case.objective(clipped) > case.objective(factors)  # the premise
    result = solver.solve(case.problem, factors)
    assert case.objective(result.factors) <= case.objective(factors)
    assert vector(case, result.factors).min() >= 0.0
    assert Status(int(result.status)) in (Status.CONVERGED, Status.FINISHED)


@pytest.mark.parametrize("structure", [Diagonal(), Kronecker()])
def test_negative_curvature_keeps_the_last_good_factors(rng, structure):
    matrix = spd(rng)
    matrix -= 50.0 * np.eye(SIZE)
    case = Case(rng, structure, matrix=matrix)
    result = ConjugateGradient(steps=40).solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NEGATIVE_CURVATURE
    assert case.objective(result.factors) <= case.objective(case.start())
    assert np.isfinite(vector(case, result.factors)).all()
    assert "raise the damping" in Status(int(result.status)).advice


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_curvature_lost_in_rounding_is_not_a_direction_to_run_along(rng, sign):
    """⟨D, C D⟩ = 0 up to rounding of either sign: dividing by it would send the factor to 1e10."""
    x = rng.standard_normal(SIZE)
    orthogonal = rng.standard_normal(SIZE)
    orthogonal -= x * (x @ orthogonal) / (x @ x)

    def product(v):
        # C v = 1e6 (v · x) w/‖x‖² with w ⟂ x, so ⟨v, C v⟩ vanishes along x but C x does not.
        tiny = sign * 1e-12 * x
        return {"w": (v["w"] @ x) / (x @ x) * (1e6 * orthogonal + tiny)}

    problem = FactorProblem(
        BACKEND,
        QuadraticModel(gradient={"w": x}, curvature_product=product),
        make_blocks({"w": (SIZE,)}, Scalar()),
        {"input": {"w": x}},
    )
    result = ConjugateGradient().solve(problem, {"w": {"s": np.ones(1)}})
    assert Status(int(result.status)) is Status.NEGATIVE_CURVATURE and int(result.steps) == 0
    np.testing.assert_array_equal(result.factors["w"]["s"], 1.0)


def test_the_length_shrinks_while_the_objective_would_rise(monkeypatch):
    """U x = a b x with optimum a b = 100 from a = b = 1: linearised, a = b = 50.5, and a b = 2550.

    A quarter of the way a b = 179 is nearer to 100 than 1 is.
    """
    gradient = {"w": np.ones((1, 1))}
    model = QuadraticModel(gradient=gradient, curvature_product=lambda v: {"w": 0.01 * v["w"]})
    blocks = make_blocks({"w": (1, 1)}, Kronecker())
    problem = FactorProblem(BACKEND, model, blocks, {"input": gradient})
    start = {"w": {"A": np.ones((1, 1)), "B": np.ones((1, 1))}}
    result = ConjugateGradient(steps=1).solve(problem, start)
    assert Status(int(result.status)) is Status.FINISHED
    assert int(result.products) == 1 + 1 + 2  # start, curvature, two trials
    np.testing.assert_allclose(result.factors["w"]["A"], 1.0 + 49.5 / 4.0, rtol=1e-13)

    monkeypatch.setattr(line_search, "_TRIES", 1)
    result = ConjugateGradient(steps=5).solve(problem, start)
    assert Status(int(result.status)) is Status.OBJECTIVE_ROSE
    assert int(result.steps) == 0 and float(result.objective) == float(result.objective_start)
    np.testing.assert_array_equal(result.factors["w"]["A"], 1.0)


@pytest.mark.parametrize("structure", [Diagonal(), Kronecker()])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_bad_curvature_keeps_the_last_good_factors(rng, structure, value, after):
    case = Case(rng, structure).fail(after, value)
    with np.errstate(invalid="ignore"):
        result = ConjugateGradient(steps=9).solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NOT_FINITE
    assert int(result.products) == case.products
    assert np.isfinite(vector(case, result.factors)).all()
    assert case.objective(result.factors) <= case.objective(case.start())
    assert case.blocks[int(result.bad_block)].name == "a.bias"
    if after <= 1:
        np.testing.assert_array_equal(vector(case, result.factors), vector(case, case.start()))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: ConjugateGradient(steps=1.5), "steps must be an integer of at least 1, got 1.5"),
        (lambda: ConjugateGradient(tolerance=1.0), r"tolerance must lie in \[0, 1\), got 1.0"),
        (lambda: ConjugateGradient(tolerance=-1e-3), r"tolerance must lie in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
