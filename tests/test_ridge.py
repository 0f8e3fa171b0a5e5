"""The adaptive ridge: its rule, and that the solver follows it."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from llqr import tensors
from llqr.curvature import Hessian
from llqr.intervals import AdaptiveInterval
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel
from llqr.ridge import AdaptiveRidge
from llqr.settings import LLQRConfig
from llqr.solvers import DirectSolve, FactorProblem
from llqr.solvers.direct_system import assemble
from llqr.structures import Span
from tests import backends
from tests.solvers.quadratics import BACKEND, SIZE, Case, flatten, spd, unflatten, vector


@pytest.mark.parametrize("name", backends.BACKENDS)
@pytest.mark.parametrize(
    ("gain", "ridge", "bad"),
    [
        (0.8, 0.25, False),
        (0.75, 1.0, False),
        (0.3, 1.0, False),
        (0.2, 4.0, False),
        (-0.1, 4.0, True),
        (np.nan, 4.0, True),
        (-np.inf, 4.0, True),
    ],
)
def test_rule(name, gain, ridge, bad):
    backend, to, back = backends.make(name)
    given, gain, promised, resolution = (to(np.array(v)) for v in (1.0, 2.0 * gain, 2.0, 1e-6))
    rule = AdaptiveRidge(initial=1.0)
    new, refused = rule.judged(backend, given, (gain, gain), promised, resolution)
    assert float(back(new)) == ridge and bool(refused) is bad


@pytest.mark.parametrize("name", backends.BACKENDS)
@pytest.mark.parametrize(
    ("other", "ridge", "bad"),
    [(1e-3, 0.25, False), (-1e-7, 0.25, False), (-1e-3, 4.0, True), (np.nan, 4.0, True)],
)
def test_a_rise_on_unseen_examples_is_as_bad_as_one_on_seen_ones(name, other, ridge, bad):
    backend, to, back = backends.make(name)
    given, gain, other, resolution = (to(np.array(v)) for v in (1.0, 1.0, other, 1e-6))
    rule = AdaptiveRidge(initial=1.0)
    new, refused = rule.judged(backend, given, (gain, other), gain, resolution)
    assert float(back(new)) == ridge and bool(refused) is bad


def test_a_promise_below_rounding_says_nothing():
    rule = AdaptiveRidge(initial=1.0)
    for gain in (-1e-9, 1e-9, np.nan):
        new, bad = rule.judged(
            BACKEND, np.asarray(2.0), (np.asarray(gain),) * 2, np.asarray(1e-9), np.asarray(1e-8)
        )
        assert float(new) == 2.0 and not bad


def test_bounds_hold():
    rule = AdaptiveRidge(initial=1.0, smallest=0.5, largest=2.0)
    assert float(rule.smaller(BACKEND, np.asarray(1.0))) == 0.5
    assert float(rule.larger(BACKEND, np.asarray(1.0))) == 2.0


def pulled_together(case, ridge):
    """Return s by the formula of :mod:`llqr.ridge`, with dense matrices; two kinds, in turns."""
    matrix, right = case.normal_equations()
    kinds = np.tile(np.eye(2), (len(right) // 2, 1))
    lumped = kinds.T @ matrix @ kinds
    squares = (case.directions() ** 2).sum(axis=0)
    means = np.diag(lumped) / (kinds.T @ squares)
    weights = np.diag(np.diag(matrix) + AdaptiveRidge.mean_share * squares * (kinds @ means))
    common = nonnegative(lumped + ridge * np.diag(np.diag(lumped)), kinds.T @ right, case)
    return nonnegative(matrix + ridge * weights, right + ridge * weights @ kinds @ common, case)


def nonnegative(matrix, right, case):
    """Return argmin ½ xᵀHx − xᵀr, subject to x ≥ 0 if the factors are bounded."""
    if not case.problem.bounded:
        return np.linalg.solve(matrix, right)
    for free in product([False, True], repeat=len(right)):
        x, chosen = np.zeros(len(right)), np.array(free)
        x[chosen] = np.linalg.solve(matrix[np.ix_(chosen, chosen)], right[chosen])
        if x.min() >= 0.0 and (matrix @ x - right)[~chosen].min(initial=0.0) >= 0.0:
            return x
    raise AssertionError("a strictly convex problem has a minimiser")


def with_loss(case, loss):
    """Return the case's problem with a loss of the step."""
    model = case.problem.model
    changed = QuadraticModel(
        gradient=model.gradient,
        curvature_product=model.curvature_product,
        gram=model.gram,
        loss=lambda step: np.asarray(loss(step)),
    )
    return FactorProblem(BACKEND, changed, case.blocks, case.sources, np.asarray(1.0))


def true_quadratic(case, scale):
    """Return L(θ + δ) = 100 + scale · (m(δ) without damping and ridge)."""
    model = case.problem.model

    def loss(step):
        residual = model.residual(step)
        return 100.0 + scale * model.value(step, residual)

    return loss


@pytest.mark.parametrize(
    ("scale", "expected", "used"),
    [(1.0, 0.25, 1.0), (0.5, 1.0, 1.0), (0.1, 4.0, 1.0), (-1.0, 1e4, 1e4)],
)
def test_the_solver_compares_gain_and_promise(rng, scale, expected, used):
    case = Case(rng, Span(per="parameter"))
    problem = with_loss(case, true_quadratic(case, scale))
    result = DirectSolve(relative_ridge=AdaptiveRidge(initial=1.0)).solve(problem, case.start())
    assert float(result.ridge) == expected
    # A step that raises the loss is found again with larger ridges; here none helps.
    np.testing.assert_allclose(vector(case, result.factors), pulled_together(case, used), rtol=1e-9)


def test_the_ridge_grows_until_the_loss_falls(rng):
    case = Case(rng, Span(per="parameter"))
    factors = {
        block.name: {"s": s}
        for block, s in zip(case.blocks, pulled_together(case, 16.0).reshape(-1, 2), strict=True)
    }
    longest = tensors.norm(BACKEND, case.problem.step(case.problem.inputs(), factors))
    quadratic = true_quadratic(case, 1.0)

    def cliff(step):
        too_far = tensors.norm(BACKEND, step) > 1.01 * longest
        return 1e9 if too_far else quadratic(step)

    result = DirectSolve(relative_ridge=AdaptiveRidge(initial=1.0)).solve(
        with_loss(case, cliff), case.start()
    )
    np.testing.assert_allclose(vector(case, result.factors), pulled_together(case, 16.0), rtol=1e-9)
    assert float(result.ridge) == 4.0  # that of 16 kept its promise


def test_the_ridge_grows_until_the_unseen_loss_falls(rng):
    """Along reversed directions, short steps alone do not raise a loss with a wall behind."""
    case = Case(rng, Span(per="parameter"))
    factors = {
        block.name: {"s": s}
        for block, s in zip(case.blocks, pulled_together(case, 16.0).reshape(-1, 2), strict=True)
    }
    longest = tensors.norm(BACKEND, case.problem.step(case.problem.inputs(), factors))
    quadratic = true_quadratic(case, 1.0)

    def loss(step):
        backwards = tensors.dot(case.problem.model.gradient, step) > 0.0
        if backwards:
            return 1e9 if tensors.norm(BACKEND, step) > 1.01 * longest else 0.0
        return quadratic(step)

    reversed_sources = {key: tensors.scale(-1.0, value) for key, value in case.sources.items()}
    problem = replace(with_loss(case, loss), partly_unseen=reversed_sources)
    result = DirectSolve(relative_ridge=AdaptiveRidge(initial=1.0)).solve(problem, case.start())
    np.testing.assert_allclose(vector(case, result.factors), pulled_together(case, 16.0), rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ridge", [0.1, 3.0])
def test_bounds_hold_for_the_common_sizes_too(seed, ridge):
    case = Case(np.random.default_rng(seed), Span(per="parameter", floor=0.0))
    problem = replace(with_loss(case, true_quadratic(case, 1.0)), ridge=np.asarray(ridge))
    result = DirectSolve(relative_ridge=AdaptiveRidge()).solve(problem, case.start())
    expected = pulled_together(case, ridge)
    np.testing.assert_allclose(vector(case, result.factors), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("curvature", [1e-40, 0.0])
def test_a_direction_that_changes_nothing_takes_the_common_step(rng, curvature):
    """Its gradient and curvature are rounding, and their quotient, here 1e20, is no step size."""
    flat = flatten({**unflatten(np.zeros(SIZE)), "b.weight": np.ones((2, 2))}) > 0.0
    matrix = spd(rng)
    matrix[flat] = matrix[:, flat] = 0.0
    matrix[flat, flat] = curvature
    case = Case(rng, Span(per="parameter"), matrix)
    case.problem.model.gradient["b.weight"][...] = 1e-20
    result = DirectSolve(relative_ridge=AdaptiveRidge(initial=1.0)).solve(
        with_loss(case, true_quadratic(case, 1.0)), case.start()
    )
    along_update = {name: abs(own["s"][1]) for name, own in result.factors.items()}
    assert 0.0 < along_update.pop("b.weight") <= max(along_update.values())


def with_half(case, half):
    problem = with_loss(case, true_quadratic(case, 1.0))
    return replace(problem, half_gradient=unflatten(half), ridge=np.asarray(1e-3))


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2, 3.0])
def test_noise_bounds_the_ridge_from_below(rng, noise):
    case = Case(rng, Span(per="parameter"))
    half = case.gradient + noise * rng.standard_normal(SIZE)
    problem = with_half(case, half)
    matrix, right = case.normal_equations()
    directions = case.directions()
    change = directions.T @ (half - case.gradient)
    share = (change**2 / np.diag(matrix)).sum() / (right**2 / np.diag(matrix)).sum()
    measured = float(assemble(problem, case.start()).noise())
    np.testing.assert_allclose(measured, share, rtol=1e-10, atol=1e-30)
    result = DirectSolve(relative_ridge=AdaptiveRidge()).solve(problem, case.start())
    np.testing.assert_allclose(float(result.noise), share, rtol=1e-10, atol=1e-30)
    used = max(1e-3, min(1.0, 32.0 * share))
    assert bool(used == 1e-3) is (noise == 0.0)
    np.testing.assert_allclose(vector(case, result.factors), pulled_together(case, used), rtol=1e-8)


def test_a_vanishing_gradient_is_all_noise_if_half_of_it_is_not(rng):
    case = Case(rng, Span(per="parameter"))
    case.problem.model.gradient.update(unflatten(np.zeros(SIZE)))
    problem = with_half(case, np.ones(SIZE))
    assert float(assemble(problem, case.start()).noise()) == 1.0
    problem = with_half(case, np.zeros(SIZE))
    assert float(assemble(problem, case.start()).noise()) == 0.0


def test_noise_that_is_no_number_counts_in_full():
    rule = AdaptiveRidge()
    for noise, expected in ((np.nan, 1.0), (np.inf, 1.0), (0.0, 0.5), (1 / 64, 0.5), (1 / 40, 0.8)):
        ridge = rule.least(BACKEND, np.asarray(0.5), np.asarray(noise))
        assert float(ridge) == pytest.approx(expected)


def test_a_model_without_loss_is_refused(rng):
    case = Case(rng, Span())
    solver = DirectSolve(relative_ridge=AdaptiveRidge(initial=1.0))
    with pytest.raises(ValueError, match=r"needs model\.loss to .* got None"):
        solver.solve(case.problem, case.start())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial": 0.0}, "initial must be"),
        ({"initial": 1e9}, "initial must lie between"),
        ({"noise_weight": 0.0}, "noise_weight must be"),
        ({"mean_share": 0.0}, "mean_share must be"),
        ({"factor": 1.0}, "factor must be above 1"),
        ({"doubted": 0.9}, "doubted must be at most trusted"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveRidge(**settings)


@pytest.mark.parametrize("initial", [0.9, 0.99, 0.999, 1.0, 1.001, 1.01, 1.1, 2.0])
def test_rosenbrock_from_any_ridge(initial):
    """Residuals (1 − u, 10 (v − u²)) with the whole plane as span.

    The path is chaotic, so several starts: without the bound on growth two of these never arrive.
    """
    config = LLQRConfig(
        curvature=Hessian(),
        structure=Span(per="parameter", directions=("update", "gradient"), floor=0.0),
        inner_solver=DirectSolve(relative_ridge=AdaptiveRidge(initial=initial)),
        update_interval=AdaptiveInterval(),
        ema_decay=0.5,
        ema_debias=True,
        growth=2.0,
        apply_to="update",
    )
    preconditioner = Preconditioner(BACKEND, config, {"p": (2,)})
    point = np.array([-1.2, 1.0])
    state = preconditioner.init({"p": point})

    def residuals(p):
        return np.array([1.0 - p[0], 10.0 * (p[1] - p[0] ** 2)])

    def loss(p):
        return 0.5 * (residuals(p) ** 2).sum()

    mean, square = np.zeros(2), np.zeros(2)
    for step in range(1, 301):
        jacobian = np.array([[-1.0, 0.0], [-20.0 * point[0], 10.0]])
        gradient = jacobian.T @ residuals(point)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        update = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-12)
        sources = {"input": {"p": update}, "update": {"p": update}, "gradient": {"p": gradient}}
        if bool(preconditioner.is_due(state)):
            model = QuadraticModel(
                gradient={"p": gradient},
                curvature_product=lambda v, j=jacobian: {"p": j.T @ (j @ v["p"])},
                loss=lambda d, p=point: np.asarray(loss(p + d["p"])),
            )
            state = preconditioner.fit(state, model, sources)
        moved, state = preconditioner.precondition(state, sources)
        state = preconditioner.advance(state)
        point = point - moved["p"]
        if loss(point) < 1e-10:
            break
    assert loss(point) < 1e-10
    assert int(state.fits) <= step and float(state.ridge) < initial
