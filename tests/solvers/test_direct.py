"""The direct solve against numpy, with ridge, floors and directions of very different sizes."""

from dataclasses import replace

import numpy as np
import pytest

from llqr.quadratic import QuadraticModel
from llqr.solvers import DirectSolve, FactorProblem, Status
from llqr.solvers.direct_system import assemble
from llqr.structures import Diagonal, Scalar, Span
from llqr.structures.blocks import make_blocks
from tests.solvers.quadratics import BACKEND, SIZE, Case, flatten, spd, unflatten, vector

STRUCTURES = {
    "scalar": Scalar(),
    "scalar_per_parameter": Scalar(per="parameter"),
    "span": Span(),
    "span_per_parameter": Span(per="parameter"),
    "mixed": lambda name, shape: Span() if len(shape) > 1 else Scalar(per="parameter"),
}


def _check(case, result, *, ridge=0.0, rtol=1e-10):
    matrix, right = case.normal_equations()
    matrix = matrix + ridge * np.diag(np.diag(matrix))
    expected = np.linalg.solve(matrix, right)
    assert Status(int(result.status)) is Status.FINISHED
    np.testing.assert_allclose(vector(case, result.factors), expected, rtol=rtol)
    objective = 0.5 * expected @ matrix @ expected - expected @ right
    np.testing.assert_allclose(result.objective, objective, rtol=rtol)
    start = vector(case, case.start())
    np.testing.assert_allclose(
        result.objective_start, 0.5 * start @ matrix @ start - start @ right, rtol=rtol
    )


@pytest.mark.parametrize("key", STRUCTURES)
@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_equals_numpy_solve(rng, key, gram, damping, ridge):
    case = Case(rng, STRUCTURES[key], gram=gram, damping=damping)
    result = DirectSolve(relative_ridge=ridge).solve(case.problem, case.start())
    _check(case, result, ridge=ridge)
    assert int(result.products) == case.products == len(vector(case, case.start()))
    if ridge == 0.0:
        np.testing.assert_allclose(result.objective, case.objective(result.factors), rtol=1e-9)


@pytest.mark.parametrize("key", STRUCTURES)
@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_the_model_along_every_source_comes_with_the_system(rng, key, gram, damping):
    case = Case(rng, STRUCTURES[key], gram=gram, damping=damping)
    along = assemble(case.problem, case.start()).along()
    # What some blocks do not act on is no direction of all parameters.
    assert set(along) == set.intersection(*(set(block.sources) for block in case.blocks))
    for name, found in along.items():
        np.testing.assert_allclose(found, case.problem.model.along(case.sources[name]), rtol=1e-10)


@pytest.mark.parametrize("key", STRUCTURES)
def test_directions_of_a_layer_move_that_layer_alone(rng, key):
    case, moved = Case(rng, STRUCTURES[key], gram=True), []
    gram = case.problem.model.gram

    def recording(groups):
        moved.extend(set(group.combine(np.ones(group.count))) for group in groups)
        return gram(groups)

    model = replace(case.problem.model, gram=recording)
    assemble(replace(case.problem, model=model), case.start())
    assert moved == [{"a.bias", "a.weight"}, {"b.weight"}, {"scale"}]


@pytest.mark.parametrize("gram", [False, True])
def test_directions_twelve_orders_of_magnitude_apart(rng, gram):
    case = Case(rng, Span(per="parameter"), gram=gram)
    plain = DirectSolve().solve(case.problem, case.start())
    for name, factor in zip(case.sources["update"], (1e-12, 1e-6, 1e6, 1e12), strict=True):
        case.sources["update"][name] = factor * case.sources["update"][name]
    result = DirectSolve().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.FINISHED
    for block, factor in zip(case.blocks, (1e-12, 1e-6, 1e6, 1e12), strict=True):
        scaled = result.factors[block.name]["s"] * np.array([1.0, factor])
        np.testing.assert_allclose(scaled, plain.factors[block.name]["s"], rtol=1e-9)


def test_zero_directions_keep_their_factor(rng):
    case = Case(rng, Span(per="parameter"))
    case.sources["update"]["a.bias"] = np.zeros(3)
    start = case.start()
    start["a.bias"]["s"] = np.array([1.0, 0.37])
    result = DirectSolve().solve(case.problem, start)
    assert Status(int(result.status)) is Status.FINISHED
    assert result.factors["a.bias"]["s"][1] == 0.37
    matrix, right = case.normal_equations()
    kept = np.array([i for i in range(len(right)) if np.any(matrix[i])])
    expected = np.linalg.solve(matrix[np.ix_(kept, kept)], right[kept])
    np.testing.assert_allclose(vector(case, result.factors)[kept], expected, rtol=1e-10)


def test_all_directions_zero(rng):
    case = Case(rng, Span(), scale=0.0)
    result = DirectSolve().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.FINISHED
    np.testing.assert_array_equal(vector(case, result.factors), vector(case, case.start()))


def test_empty_parameters_are_no_directions():
    gradient = {"w": np.array([1.0, 2.0]), "none": np.zeros((0, 3))}
    model = QuadraticModel(
        gradient=gradient, curvature_product=lambda v: {n: 4.0 * x for n, x in v.items()}
    )
    blocks = make_blocks({"w": (2,), "none": (0, 3)}, Scalar(per="parameter"))
    problem = FactorProblem(BACKEND, model, blocks, {"input": gradient})
    start = {"w": {"s": np.ones(1)}, "none": {"s": np.ones(1)}}
    result = DirectSolve().solve(problem, start)
    assert result.factors["none"]["s"] == 1.0
    np.testing.assert_allclose(result.factors["w"]["s"], 0.25, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_equal_directions_share_the_step(rng, dtype):
    """H is singular: update = gradient. The step is the minimiser, its split the smallest."""
    case = Case(rng, Span())
    cast = {n: v.astype(dtype) for n, v in case.sources["gradient"].items()}
    matrix = case.matrix.astype(dtype)
    model = QuadraticModel(
        gradient=cast, curvature_product=lambda v: unflatten(matrix @ flatten(v))
    )
    problem = FactorProblem(BACKEND, model, case.blocks, {"gradient": cast, "update": cast})
    start = {b: {"s": np.array([1.0, 0.0], dtype)} for b in case.start()}
    result = DirectSolve().solve(problem, start)
    assert Status(int(result.status)) is Status.FINISHED
    scalar = Case(np.random.default_rng(0), Scalar(), matrix=case.matrix)
    scalar.gradient[:] = case.gradient
    scalar.sources["input"].update(unflatten(case.gradient))
    expected = DirectSolve().solve(scalar.problem, scalar.start())
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    for block in case.start():
        s = result.factors[block]["s"]
        assert s.dtype == dtype
        np.testing.assert_allclose(s[0], s[1], rtol=tolerance)
        np.testing.assert_allclose(s.sum(), expected.factors[block]["s"][0], rtol=tolerance)


@pytest.mark.parametrize("cutoff", [0.0, 1e-7])
@pytest.mark.parametrize("seed", range(10))
def test_dependent_directions_in_float32_do_not_blow_up(seed, cutoff):
    """Four directions of rank two: rounding must not pass for curvature, of either sign."""
    rng = np.random.default_rng(seed)
    matrix = spd(rng).astype(np.float32)
    base = rng.standard_normal((2, SIZE)).astype(np.float32)
    mixing = rng.standard_normal((2, 2)).astype(np.float32)
    directions = np.concatenate([base, mixing @ base])
    names = ("first", "second", "third", "fourth")
    blocks = make_blocks({"w": (SIZE,)}, Span(directions=names))
    model = QuadraticModel(
        gradient={"w": base[0]}, curvature_product=lambda v: {"w": matrix @ v["w"]}
    )
    sources = {name: {"w": d} for name, d in zip(names, directions, strict=True)}
    start = {"w": {"s": np.array([1.0, 0.0, 0.0, 0.0], np.float32)}}
    solver = DirectSolve(relative_cutoff=cutoff)
    result = solver.solve(FactorProblem(BACKEND, model, blocks, sources), start)
    assert Status(int(result.status)) is Status.FINISHED
    columns = base.astype(np.float64).T
    right = columns.T @ base[0]
    optimum = np.linalg.solve(columns.T @ matrix @ columns, right)
    step = directions.T @ result.factors["w"]["s"]
    np.testing.assert_allclose(result.objective, -0.5 * right @ optimum, rtol=1e-3)
    np.testing.assert_allclose(step, columns @ optimum, rtol=1e-2, atol=1e-3)


def test_a_direction_without_curvature_keeps_its_factor_and_counts_for_the_others():
    """H = [[1, ½], [½, 0]]: s₂ stays at its start, s₁ minimises m given it."""
    gradient = {"w": np.array([3.0, 0.0])}
    update = {"w": np.array([0.0, 1.0])}
    matrix = np.array([[1.0 / 9.0, 0.5 / 3.0], [0.5 / 3.0, 0.0]])
    model = QuadraticModel(gradient=gradient, curvature_product=lambda v: {"w": matrix @ v["w"]})
    blocks = make_blocks({"w": (2,)}, Span())
    problem = FactorProblem(BACKEND, model, blocks, {"gradient": gradient, "update": update})
    result = DirectSolve().solve(problem, {"w": {"s": np.array([1.0, 4.0])}})
    assert Status(int(result.status)) is Status.FINISHED
    np.testing.assert_allclose(result.factors["w"]["s"], [9.0 - 2.0, 4.0], rtol=1e-13)


@pytest.mark.parametrize("gram", [False, True])
def test_negative_curvature_keeps_the_factors(rng, gram):
    case = Case(rng, Span(), matrix=spd(rng) - 30.0 * np.eye(SIZE), gram=gram)
    result = DirectSolve().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NEGATIVE_CURVATURE
    np.testing.assert_array_equal(vector(case, result.factors), vector(case, case.start()))
    assert float(result.objective) == float(result.objective_start)


def test_enough_damping_cures_negative_curvature(rng):
    case = Case(rng, Span(), matrix=spd(rng) - 30.0 * np.eye(SIZE), damping=31.0)
    _check(case, DirectSolve().solve(case.problem, case.start()))


@pytest.mark.parametrize("gram", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_curvature_keeps_the_factors(rng, gram, value):
    case = Case(rng, Span(), gram=gram)
    case.fail(0, value)
    case.matrix[0, 0] = value
    with np.errstate(invalid="ignore"):
        result = DirectSolve().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NOT_FINITE
    np.testing.assert_array_equal(vector(case, result.factors), vector(case, case.start()))
    assert not np.isfinite(result.objective)


def test_bad_directions_keep_the_factors(rng):
    case = Case(rng, Span())
    case.sources["update"]["a.bias"][1] = np.inf
    with np.errstate(invalid="ignore"):
        result = DirectSolve().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NOT_FINITE
    np.testing.assert_array_equal(vector(case, result.factors), vector(case, case.start()))


def test_floor_clips_the_solution(rng):
    case = Case(rng, Span(floor=0.0, per="parameter"))
    free = Case(np.random.default_rng(0), Span(per="parameter"), matrix=case.matrix)
    unbounded = DirectSolve().solve(free.problem, free.start())
    assert vector(free, unbounded.factors).min() < 0.0  # so the floor matters here
    result = DirectSolve().solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.FINISHED
    assert vector(case, result.factors).min() >= 0.0
    assert case.objective(result.factors) <= case.objective(case.start())


def test_bounds_are_met_exactly_where_clipping_would_lead_uphill():
    """In two strongly coupled directions, clipping the optimum is worse than the best point of the bound."""
    gradient = {"w": np.array([1.0, 0.0])}
    update = {"w": np.array([1.0, 0.1])}
    matrix = np.array([[1.0, -2.0], [-2.0, 5.0]])
    model = QuadraticModel(gradient=gradient, curvature_product=lambda v: {"w": matrix @ v["w"]})
    blocks = make_blocks({"w": (2,)}, Span(floor=0.0))
    problem = FactorProblem(BACKEND, model, blocks, {"gradient": gradient, "update": update})

    def objective(s):
        step = -(s[0] * gradient["w"] + s[1] * update["w"])
        return gradient["w"] @ step + 0.5 * step @ matrix @ step

    columns = np.stack([gradient["w"], update["w"]], axis=1)
    optimum = np.linalg.solve(columns.T @ matrix @ columns, columns.T @ gradient["w"])
    assert optimum[0] < 0.0 < optimum[1]
    clipped = np.maximum(optimum, 0.0)
    second = columns[:, 1]
    best = np.array([0.0, (gradient["w"] @ second) / (second @ matrix @ second)])
    assert objective(clipped) > objective(best)  # the premise
    for start in (best, np.zeros(2), np.array([0.3, 0.1])):
        result = DirectSolve().solve(problem, {"w": {"s": start}})
        assert Status(int(result.status)) is Status.FINISHED
        np.testing.assert_allclose(result.factors["w"]["s"], best, rtol=1e-13, atol=1e-13)


def test_ridge_is_not_refused_after_a_better_start(rng):
    """The ridge shrinks s below the plain optimum; started there, that is no rise of its objective."""
    case = Case(rng, Scalar())
    plain = DirectSolve().solve(case.problem, case.start())
    result = DirectSolve(relative_ridge=1.0).solve(case.problem, plain.factors)
    assert Status(int(result.status)) is Status.FINISHED
    assert float(result.objective) < float(result.objective_start)


def test_starting_at_the_solution_is_no_rise(rng):
    case = Case(rng, Span())
    first = DirectSolve().solve(case.problem, case.start())
    again = DirectSolve().solve(case.problem, first.factors)
    assert Status(int(again.status)) is Status.FINISHED
    np.testing.assert_allclose(vector(case, again.factors), vector(case, first.factors), rtol=1e-12)


def test_a_cutoff_that_costs_more_than_it_saves_is_reported(rng):
    """Cutting all but the largest eigenvalue from a start at the minimum can only raise m."""
    case = Case(rng, Span())
    first = DirectSolve().solve(case.problem, case.start())
    again = DirectSolve(relative_cutoff=0.99).solve(case.problem, first.factors)
    assert Status(int(again.status)) is Status.OBJECTIVE_ROSE
    assert float(again.objective) == float(again.objective_start)
    np.testing.assert_array_equal(vector(case, again.factors), vector(case, first.factors))


def test_structures_with_many_factors_are_refused(rng):
    case = Case(rng, lambda name, shape: Diagonal() if name == "b.weight" else Scalar())
    for call in (
        lambda: DirectSolve().check(case.blocks),
        lambda: DirectSolve().solve(case.problem, case.start()),
    ):
        with pytest.raises(ValueError, match=r"'b.weight' is diagonal; use ConjugateGradient"):
            call()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: DirectSolve(relative_ridge=-1.0), "relative_ridge must be .*at least 0, got -1.0"),
        (lambda: DirectSolve(relative_ridge=float("inf")), "relative_ridge .*got inf"),
        (lambda: DirectSolve(relative_cutoff=1.0), r"relative_cutoff must lie in \[0, 1\)"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
