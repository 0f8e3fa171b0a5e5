"""Momentum and Adam against plain re-implementations, and the watch over both."""

import numpy as np
import pytest

from llqr.quadratic import QuadraticModel
from llqr.solvers import Adam, FactorProblem, GradientDescent, Status
from llqr.structures import EKFAC, Diagonal, Kronecker, Scalar
from llqr.structures.blocks import make_blocks
from tests.solvers.quadratics import BACKEND, SIZE, Case, flatten, spd, vector

STRUCTURES = [Scalar(), Diagonal(), Kronecker(), EKFAC()]


def _loss_gradient(case, factors):
    """Return the gradient of the objective in the factors by central differences of a polynomial.

    m is a polynomial of degree ≤ 10 in each factor entry; the rule below is exact to degree 6, which
    covers every structure used here.
    """
    nodes = np.arange(-4, 5) / 4.0
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, np.eye(len(nodes))[1])
    result = {}
    for block, own in factors.items():
        result[block] = {name: np.zeros_like(value) for name, value in own.items()}
        for name, value in own.items():
            for index in np.ndindex(value.shape):
                values = []
                for node in nodes:
                    moved = {b: dict(o) for b, o in factors.items()}
                    shifted = value.copy()
                    shifted[index] += node
                    moved[block][name] = shifted
                    values.append(case.objective(moved))
                result[block][name][index] = weights @ values
    return result


def _clipped(gradient, limit):
    result = {}
    for block, own in gradient.items():
        result[block] = {}
        for name, value in own.items():
            norm = np.linalg.norm(value)
            result[block][name] = value if norm <= limit else value * limit / norm
    return result


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_momentum_equals_a_plain_loop(rng, structure, clip):
    case = Case(rng, structure, damping=0.3)
    solver = GradientDescent(steps=4, learning_rate=5e-4, momentum=0.8, clip_norm=clip)
    result = solver.solve(case.problem, case.start())
    factors = case.start()
    velocity = None
    for _ in range(4):
        gradient = _clipped(_loss_gradient(case, factors), clip)
        velocity = {
            b: {n: g + (0.8 * velocity[b][n] if velocity else 0.0) for n, g in own.items()}
            for b, own in gradient.items()
        }
        factors = {
            b: {n: f - 5e-4 * velocity[b][n] for n, f in own.items()} for b, own in factors.items()
        }
    assert Status(int(result.status)) is Status.FINISHED
    np.testing.assert_allclose(vector(case, result.factors), vector(case, factors), rtol=1e-8)
    np.testing.assert_allclose(result.objective, case.objective(factors), rtol=1e-7)
    np.testing.assert_allclose(result.objective_start, case.objective(case.start()), rtol=1e-12)


def test_unclipped_momentum_has_no_limit(rng):
    case = Case(rng, Diagonal())
    free = GradientDescent(steps=3, learning_rate=1e-4, clip_norm=None)
    wide = GradientDescent(steps=3, learning_rate=1e-4, clip_norm=1e12)
    np.testing.assert_array_equal(
        vector(case, free.solve(case.problem, case.start()).factors),
        vector(case, wide.solve(case.problem, case.start()).factors),
    )


def test_adam_equals_torch(rng):
    torch = pytest.importorskip("torch")
    case = Case(rng, Diagonal(), damping=0.1)
    solver = Adam(steps=6, learning_rate=0.01, b1=0.8, b2=0.95, epsilon=1e-6, clip_norm=None)
    result = solver.solve(case.problem, case.start())
    # In the flat order of the parameters, the diagonal's step is −d ∘ g.
    d = torch.ones(len(case.gradient), dtype=torch.float64, requires_grad=True)
    full = torch.tensor(case.matrix + 0.1 * np.eye(len(case.gradient)))
    g = torch.tensor(case.gradient)
    optimizer = torch.optim.Adam([d], lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    for _ in range(6):
        optimizer.zero_grad()
        step = -d * g
        (g @ step + 0.5 * step @ full @ step).backward()
        optimizer.step()
    got = flatten({b.name: result.factors[b.name]["d"].reshape(b.shapes[0]) for b in case.blocks})
    np.testing.assert_allclose(got, d.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("solver", [GradientDescent(steps=7), Adam(steps=7)])
def test_products_are_counted_as_spent(rng, solver):
    case = Case(rng, Diagonal())
    result = solver.solve(case.problem, case.start())
    assert int(result.products) == case.products == 8
    assert int(result.steps) == 7


def test_a_floor_holds_after_every_step(rng):
    case = Case(rng, Diagonal(floor=0.9), matrix=10.0 * np.eye(SIZE))
    solver = GradientDescent(steps=30, learning_rate=0.01, clip_norm=None)
    result = solver.solve(case.problem, case.start())
    factors = vector(case, result.factors)
    assert factors.min() == 0.9
    # The unconstrained optimum of every entry is 1/10, so every entry that moves ends at the floor.
    assert (factors < 1.0).all()


def test_published_rate_without_clipping_ends_safely(rng):
    """Kronecker at the published learning rate, no clipping: left alone, factors explode."""
    case = Case(rng, Kronecker(), matrix=spd(rng, condition=10.0), scale=20.0)
    solver = GradientDescent(steps=50, clip_norm=None)
    unwatched = {b: {n: v.copy() for n, v in own.items()} for b, own in case.start().items()}
    velocity = {b: {n: 0.0 * v for n, v in own.items()} for b, own in unwatched.items()}
    inputs = case.problem.inputs()
    with np.errstate(all="ignore"):
        for _ in range(12):
            _, gradient, _ = case.problem.evaluate(inputs, unwatched)
            velocity = {
                b: {n: 0.9 * velocity[b][n] + g for n, g in own.items()}
                for b, own in gradient.items()
            }
            unwatched = {
                b: {n: f - 1e-3 * velocity[b][n] for n, f in own.items()}
                for b, own in unwatched.items()
            }
        largest = np.abs(vector(case, unwatched)).max()
    assert not largest < 1e23
    result = solver.solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.OBJECTIVE_ROSE
    assert np.isfinite(vector(case, result.factors)).all()
    assert case.objective(result.factors) <= case.objective(case.start())
    assert int(result.steps) < 12


@pytest.mark.parametrize("solver, rate", [(GradientDescent, 0.5), (Adam, 50.0)])
def test_a_rising_objective_is_stopped_and_the_best_kept(rng, solver, rate):
    case = Case(rng, Diagonal(), scale=3.0)
    greedy = solver(steps=200, learning_rate=rate, clip_norm=None)
    result = greedy.solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.OBJECTIVE_ROSE
    assert int(result.rises) >= 1 and int(result.steps) < 200
    assert case.objective(result.factors) <= case.objective(case.start())
    np.testing.assert_allclose(result.objective, case.objective(result.factors), rtol=1e-9)
    assert "lower the inner learning rate" in Status(int(result.status)).advice


def test_a_rise_within_rounding_is_no_failure_but_is_not_taken(rng):
    """m(s) = ½ s² − s from s = 1 + e with η = 2.5: e becomes −1.5 e and m rises by 0.6 e² ≈ 1e-15."""
    gradient = {"w": np.array([1.0])}
    model = QuadraticModel(gradient=gradient, curvature_product=lambda v: v)
    problem = FactorProblem(BACKEND, model, make_blocks({"w": (1,)}, Scalar()), {"input": gradient})
    start = {"w": {"s": np.array([1.0 + 5e-8])}}
    solver = GradientDescent(steps=1, learning_rate=2.5, momentum=0.0)
    result = solver.solve(problem, start)
    assert Status(int(result.status)) is Status.FINISHED and int(result.rises) == 1
    assert float(result.objective) == float(result.objective_start)
    np.testing.assert_array_equal(result.factors["w"]["s"], start["w"]["s"])


def test_the_watch_can_be_told_to_report_only(rng):
    case = Case(rng, Diagonal(), scale=3.0)
    solver = GradientDescent(steps=5, learning_rate=0.05, clip_norm=None, stop_on_rise=False)
    result = solver.solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.OBJECTIVE_ROSE
    assert int(result.steps) == 5 and int(result.rises) >= 1
    assert float(result.objective) > float(result.objective_start)
    np.testing.assert_allclose(result.objective, case.objective(result.factors), rtol=1e-9)


def test_rises_count_the_evaluations_above_the_one_before(rng):
    """With C = 1 the objective of a scalar is a parabola of curvature ‖g‖²: above 2/‖g‖² it rises."""
    case = Case(rng, Scalar(), matrix=np.eye(SIZE))
    curvatures = np.diag(case.normal_equations()[0])

    def rises(rate):
        solver = GradientDescent(
            steps=4, learning_rate=rate, momentum=0.0, clip_norm=None, stop_on_rise=False
        )
        factors = {b: {"s": np.array([0.5])} for b in case.start()}  # away from the optimum s = 1
        return int(solver.solve(case.problem, factors).rises)

    assert rises(1.9 / curvatures.max()) == 0
    assert rises(2.1 / curvatures.min()) == 4


@pytest.mark.parametrize("solver", [GradientDescent(steps=9), Adam(steps=9)])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("after", [0, 1, 4])
def test_bad_curvature_keeps_the_last_good_factors(rng, solver, value, after):
    case = Case(rng, Diagonal()).fail(after, value)
    with np.errstate(invalid="ignore"):
        result = solver.solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NOT_FINITE
    assert int(result.products) == case.products == after + 1
    assert np.isfinite(vector(case, result.factors)).all()
    assert case.objective(result.factors) <= case.objective(case.start())
    # The bad entry is a.bias[0]; the other blocks' gradients stay finite.
    assert case.blocks[int(result.bad_block)].name == "a.bias"
    if after == 0:
        np.testing.assert_array_equal(vector(case, result.factors), 1.0)


def test_a_bad_gradient_keeps_the_factors(rng):
    case = Case(rng, Scalar(per="parameter"))
    case.sources["input"]["b.weight"][0, 0] = np.nan
    with np.errstate(invalid="ignore"):
        result = GradientDescent(steps=3).solve(case.problem, case.start())
    assert Status(int(result.status)) is Status.NOT_FINITE
    np.testing.assert_array_equal(vector(case, result.factors), 1.0)
    assert int(result.bad_block) == 0  # the curvature product carries it into every block


def solved_in_float32(case, entry, curvature):
    """Return the result on a constant gradient, with a multiple of the identity as curvature."""
    gradient = {n: np.full(v.shape, entry, np.float32) for n, v in case.sources["input"].items()}
    problem = FactorProblem(
        BACKEND,
        QuadraticModel(
            gradient=gradient,
            curvature_product=lambda v: {n: np.float32(curvature) * x for n, x in v.items()},
        ),
        case.blocks,
        {"input": gradient},
    )
    start = {b: {n: v.astype(np.float32) for n, v in o.items()} for b, o in case.start().items()}
    with np.errstate(over="ignore"):
        return GradientDescent(steps=3).solve(problem, start)


def test_a_gradient_too_large_to_clip_is_not_taken_for_zero(rng):
    """Its norm overflows float32, and clipping by an infinite norm would give a zero step."""
    result = solved_in_float32(Case(rng, Diagonal()), 1e17, 1e3)
    assert Status(int(result.status)) is Status.NOT_FINITE


def test_a_gradient_whose_square_is_large_is_clipped(rng):
    """Its norm is 1e12, which float32 can square once, not twice."""
    case = Case(rng, Diagonal())
    result = solved_in_float32(case, 1e6, 2.0)
    assert Status(int(result.status)) is Status.FINISHED and int(result.bad_block) == -1
    assert (vector(case, result.factors) < 1.0).all()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: GradientDescent(steps=0), "steps must be an integer of at least 1, got 0"),
        (
            lambda: GradientDescent(learning_rate=0.0),
            "learning_rate must be a finite number above 0",
        ),
        (lambda: GradientDescent(learning_rate=float("nan")), "learning_rate .* got nan"),
        (lambda: GradientDescent(momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda: GradientDescent(clip_norm=-5.0), "clip_norm must be a finite number above 0"),
        (lambda: Adam(b1=-0.1), r"b1 must lie in \[0, 1\), got -0.1"),
        (lambda: Adam(b2="0.9"), r"b2 must lie in \[0, 1\), got '0.9'"),
        (lambda: Adam(epsilon=0), "epsilon must be a finite number above 0, got 0"),
    ],
)
def test_bad_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
