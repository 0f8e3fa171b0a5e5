"""The end of a long run: what c is, how the length falls, and that nothing is fitted any more."""

import dataclasses

import numpy as np
import pytest

from llqr import presets, tensors
from llqr.algoperf.rulesets import SMOOTHING, self_tuning
from llqr.annealing import NEVER, Annealing
from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.directions import joined
from llqr.quadratic import QuadraticModel
from llqr.ridge import AdaptiveRidge
from llqr.solvers import DirectSolve
from llqr.structures import Span
from tests import fits

RULE = Annealing(
    total_steps=100, solved=0.2, measured=0.1, warmup=0.04, noise_weight=4.0, least=0.05
)
SHARES = {20: 0.25, 21: 0.5 * 79 / 80, 23: 77 / 80, 60: 0.5, 99: 0.05, 100: 0.05, 500: 0.05}


@pytest.mark.parametrize("step", SHARES)
def test_the_share_rises_and_falls_linearly_and_keeps_a_rest(step):
    assert RULE.start == 20
    assert RULE.share(step, max) == pytest.approx(SHARES[step], rel=1e-14)
    assert RULE.share(np.array(step), np.maximum) == pytest.approx(SHARES[step], rel=1e-14)


@pytest.mark.parametrize("forward", [False, True])
def test_the_measured_length_minimises_the_model_along_the_direction(rng, forward):
    root = rng.standard_normal((4, 6))
    matrix, gradient, x = root.T @ root, rng.standard_normal(6), rng.standard_normal(6)

    def gram(groups):
        whole = joined(groups)
        rows = np.stack([whole.combine(e)["w"] for e in np.eye(whole.count)])
        return rows @ matrix @ rows.T

    model = QuadraticModel(
        gradient={"w": gradient},
        curvature_product=lambda v: {"w": matrix @ v["w"]},
        damping=0.3,
        gram=gram if forward else None,
    )
    slope, curvature = model.along({"w": x})
    c = slope / curvature

    def m(c):
        return -c * gradient @ x + 0.5 * c**2 * x @ (matrix + 0.3 * np.eye(6)) @ x

    assert m(c) < min(m(0.999 * c), m(1.001 * c))
    np.testing.assert_allclose(-c * slope + 0.5 * c**2 * curvature, m(c), rtol=1e-12)


def _run(preconditioner, gradient, steps, hessian=None):
    """Return (U x, was a fit made) of every step, and the state."""
    state, seen = preconditioner.init(gradient), []
    for _ in range(steps):
        due = bool(preconditioner.is_due(state))
        if due:
            state = fits.fit(preconditioner, state, gradient, hessian=hessian)
        result, state = preconditioner.precondition(state, {"input": gradient})
        seen.append((result, due))
        state = preconditioner.advance(state)
    return seen, state


@pytest.mark.parametrize("interval", [1, 3, 7])
def test_solved_factors_give_way_to_multiples_of_the_input(rng, interval):
    gradient = fits.gradient(rng)
    preconditioner = fits.make(update_interval=interval, annealing=RULE, growth=1.0)
    seen, state = _run(preconditioner, gradient, 100)
    assert [step for step, (_, due) in enumerate(seen) if due] == list(range(0, 20, interval))
    assert int(state.next_fit) == NEVER
    assert int(state.lengths.steps) == RULE.measured_until == 11
    slope = sum((g * g).sum() for g in gradient.values())
    c = slope / sum(fits.HESSIAN[name] * (g * g).sum() for name, g in gradient.items())
    np.testing.assert_allclose(float(state.lengths.common), 1.5 * c, rtol=1e-13)
    for step, (result, _) in enumerate(seen):
        for name, g in gradient.items():
            solved = 1.0 / fits.HESSIAN[name]
            length = 1.5 * c * min(max((solved / c) ** 0.5, 1.0 / 3.0), 3.0)
            factor = solved if step < 20 else length * RULE.share(step, max)
            np.testing.assert_allclose(result[name], factor * g, rtol=1e-12)


@pytest.mark.parametrize("deviation", [None, 0.0, 0.1, 0.3, 2.0])
def test_noise_that_a_fit_finds_lengthens_its_step(rng, deviation):
    gradient = fits.gradient(rng)

    def loss(step):
        return fits.model(gradient).value(step, fits.model(gradient).residual(step))

    preconditioner = fits.make(
        inner_solver=DirectSolve(relative_ridge=AdaptiveRidge()), annealing=RULE
    )
    half = None if deviation is None else tensors.scale(1.0 + deviation, gradient)
    fitted = preconditioner.fit(
        preconditioner.init(gradient),
        fits.model(gradient, loss=loss),
        {"input": gradient},
        half_gradient=half,
    )
    slope, curvature = fits.model(gradient).along(gradient)
    beyond = 1.5 if deviation is None else 1.0 + min(1.0, 4.0 * deviation**2)
    np.testing.assert_allclose(float(fitted.lengths.common), beyond * slope / curvature, rtol=1e-12)


def test_a_span_measures_with_the_system_that_it_has_solved(rng):
    """No product beyond one per direction, and the same length."""
    gradient, noise, products = fits.gradient(rng), fits.gradient(rng), []
    update = {name: value + 0.3 * noise[name] for name, value in gradient.items()}

    def product(v):
        products.append(v)
        return {name: fits.HESSIAN[name] * x for name, x in v.items()}

    model = fits.model(gradient, loss=lambda step: np.float64(0.0))
    model = dataclasses.replace(model, curvature_product=product)
    preconditioner = fits.make(
        structure=Span(per="parameter", directions=("update", "gradient")),
        structure_options={},
        inner_solver=DirectSolve(relative_ridge=AdaptiveRidge(largest=4.0)),
        apply_to="update",
        annealing=RULE,
    )
    sources = {"input": update, "update": update, "gradient": gradient}
    fitted = preconditioner.fit(preconditioner.init(gradient), model, sources)
    assert len(products) == 2 * len(fits.SHAPES)
    slope, curvature = fits.model(gradient).along(update)
    assert slope > 0.0
    np.testing.assert_allclose(float(fitted.lengths.common), 1.5 * slope / curvature, rtol=1e-12)


def test_fits_that_fail_end_where_the_annealing_begins(rng):
    gradient = fits.gradient(rng)
    preconditioner = fits.make(update_interval=50, annealing=RULE)
    seen, state = _run(preconditioner, gradient, 40, dict.fromkeys(fits.SHAPES, np.nan))
    assert [step for step, (_, due) in enumerate(seen) if due] == list(range(20))
    assert (int(state.rejected), int(state.lengths.steps)) == (20, 0)
    assert float(state.lengths.common) == 1.0
    # Nothing was measured: the base optimizer's own length is what falls.
    for name, g in gradient.items():
        np.testing.assert_allclose(seen[30][0][name], RULE.share(30, max) * g, rtol=1e-13)


def test_a_fit_needs_what_the_length_is_measured_along(rng):
    gradient = fits.gradient(rng)
    preconditioner = fits.make(
        structure="span", structure_options={"directions": ("gradient",)}, annealing=RULE
    )
    with pytest.raises(ValueError, match=r"sources must hold .*'input'"):
        preconditioner.fit(
            preconditioner.init(gradient), fits.model(gradient), {"gradient": gradient}
        )


BAD = {
    "total_steps must be an integer": {"total_steps": 0},
    "solved must lie in": {"total_steps": 10, "solved": 1.0},
    "measured must be above 0": {"total_steps": 10, "measured": 0.3},
    "got 0.0 and 0.2": {"total_steps": 10, "measured": 0.0},
    "noise_weight must be": {"total_steps": 10, "noise_weight": 0.0},
    "least must lie in": {"total_steps": 10, "least": -0.1},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_are_validated(message):
    with pytest.raises(ValueError, match=message):
        Annealing(**BAD[message])


def test_an_annealing_is_an_object():
    with pytest.raises(TypeError, match=r"annealing must be an object such as Annealing\("):
        configure(annealing=1000)


def test_the_shortest_run_is_fitted_once():
    assert Annealing(total_steps=1).start == 1
    assert int(Annealing(total_steps=1).next_fit(NumpyBackend(), np.array(1))) == NEVER


def test_the_preset_anneals_where_the_length_of_the_run_is_given():
    assert presets.step_sizes("categorical").annealing is None
    assert presets.step_sizes("categorical", total_steps=70).annealing == Annealing(total_steps=70)


class _Workload:
    step_hint = 100
    loss_type = type("LossType", (), {"name": "SOFTMAX_CROSS_ENTROPY"})


def test_smoothing_and_what_is_left_to_adam_follow_the_two_parts():
    recipe = self_tuning(_Workload)
    start, share = recipe.annealing.start, recipe.annealing.share
    assert (start, recipe.annealing.middle) == (20, 60)
    for step in (0, 7, 19):
        assert float(recipe.smoothing(step, np)) == SMOOTHING
        assert float(recipe.left_share(step, np)) == 1.0
    for step in (20, 50, 59, 60, 99, 150):
        assert float(recipe.smoothing(step, np)) == (SMOOTHING if step < 60 else 0.0)
        assert float(recipe.left_share(step, np)) == share(step, max)


@pytest.mark.parametrize("total", [2, 3, 70, 101])
def test_the_middle_is_where_half_of_the_length_is_left(total):
    rule = Annealing(total_steps=total, warmup=0.0, least=0.0)
    assert rule.start <= rule.middle <= total
    assert rule.share(rule.middle, max) <= 0.5 < rule.share(max(rule.start, rule.middle - 1), max)


def test_a_traced_step_gives_the_same_numbers():
    jax = pytest.importorskip("jax")
    recipe = self_tuning(_Workload)
    for rule in (recipe.smoothing, recipe.left_share):
        traced = jax.jit(lambda step, rule=rule: rule(step, jax.numpy))
        for step in (0, 19, 20, 60, 120):
            np.testing.assert_allclose(traced(step), rule(step, np), rtol=1e-6, atol=1e-9)
