"""When factors are fitted, how fits are averaged, applied, grafted, rejected and described."""

import dataclasses

import numpy as np
import pytest

from llqr.config import configure
from llqr.damping import GradientNormDamping
from llqr.preconditioner import Preconditioner
from llqr.solvers import Status
from llqr.structures import Diagonal, Scalar, Span
from tests import backends, fits


def test_starts_as_the_identity(rng):
    preconditioner, gradient = fits.make(), fits.gradient(rng)
    state = preconditioner.init(gradient)
    result, after = preconditioner.precondition(state, {"input": gradient})
    for name, value in gradient.items():
        np.testing.assert_array_equal(result[name], value)
        assert result[name].shape == fits.SHAPES[name]
    assert int(after.fallbacks) == 0
    assert bool(preconditioner.is_due(state))  # the first step is due
    assert Status(int(state.last_fit.status)) is Status.RUNNING
    assert preconditioner.describe_fit(state.last_fit).startswith("RUNNING: the solver has not")


def test_a_fit_is_the_solvers_and_is_applied(rng):
    preconditioner, gradient = fits.make(), fits.gradient(rng)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    for name, value in fits.scalars(state).items():
        assert value == pytest.approx(1.0 / fits.HESSIAN[name], rel=1e-14)
    other = fits.gradient(rng)
    result, _ = preconditioner.precondition(state, {"input": other})
    for name, value in other.items():
        np.testing.assert_allclose(result[name], value / fits.HESSIAN[name], rtol=1e-13)
    assert int(state.fits) == 1 and int(state.rejected) == 0
    assert int(state.last_fit.accepted) == 1 and int(state.last_fit.products) == 3


def test_a_constant_damping_enters_the_model(rng):
    preconditioner, gradient = fits.make(damping=0.5), fits.gradient(rng)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    for name, value in fits.scalars(state).items():
        assert value == pytest.approx(1.0 / (fits.HESSIAN[name] + 0.5), rel=1e-14)
    assert float(state.last_fit.damping) == 0.5


def _due_steps(preconditioner, gradient, steps):
    state, due = preconditioner.init(gradient), []
    for step in range(steps):
        if bool(preconditioner.is_due(state)):
            due.append(step)
            state = fits.fit(preconditioner, state, gradient)
        state = preconditioner.advance(state)
    return due, state


def test_fits_are_due_every_update_interval(rng):
    due, state = _due_steps(fits.make(update_interval=4), fits.gradient(rng), 10)
    assert due == [0, 4, 8] and int(state.step) == 10 and int(state.next_fit) == 12


def test_the_interval_may_be_a_schedule_of_the_step(rng):
    due, _ = _due_steps(fits.make(update_interval=lambda step: 1 + step), fits.gradient(rng), 20)
    assert due == [0, 1, 3, 7, 15]


def test_the_average_is_exact(rng):
    preconditioner = fits.make(ema_decay=0.75)
    gradient = fits.gradient(rng)
    state, expected = preconditioner.init(gradient), dict.fromkeys(fits.SHAPES, 1.0)
    for factor in (1.0, 3.0, 0.2):
        hessian = {name: factor * value for name, value in fits.HESSIAN.items()}
        state = fits.fit(preconditioner, state, gradient, hessian=hessian)
        for name in expected:
            expected[name] = 0.75 * expected[name] + 0.25 / hessian[name]
            assert fits.scalars(state)[name] == pytest.approx(expected[name], rel=1e-14)


def test_the_debiased_average_weighs_fits_as_if_there_had_been_no_start(rng):
    beta = 0.8
    preconditioner = fits.make(ema_decay=beta, ema_debias=True)
    gradient = fits.gradient(rng)
    state, fitted = preconditioner.init(gradient), []
    for factor in (1.0, 3.0, 0.2, 5.0):
        state = fits.fit(
            preconditioner,
            state,
            gradient,
            hessian={n: factor * h for n, h in fits.HESSIAN.items()},
        )
        fitted.append(1.0 / factor)
        weights = beta ** np.arange(len(fitted))[::-1]
        expected = weights @ np.array(fitted) / weights.sum()
        for name, value in fits.scalars(state).items():
            assert value == pytest.approx(expected / fits.HESSIAN[name], rel=1e-13)


def test_the_decay_may_be_a_schedule_of_the_fits(rng):
    preconditioner = fits.make(ema_decay=lambda fits: 0.0 if fits == 0 else 0.5)
    gradient = fits.gradient(rng)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    assert fits.scalars(state)["b"] == pytest.approx(0.5, rel=1e-14)
    state = fits.fit(
        preconditioner, state, gradient, hessian={n: 2 * h for n, h in fits.HESSIAN.items()}
    )
    assert fits.scalars(state)["b"] == pytest.approx(0.375, rel=1e-14)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"ema_decay": lambda fits: 1.5}, r"ema_decay's schedule must lie in \[0, 1\), got 1.5"),
        ({"update_interval": lambda step: 0}, "update_interval's schedule must be .*got 0"),
    ],
)
def test_schedules_out_of_range_are_refused(rng, settings, message):
    preconditioner, gradient = fits.make(**settings), fits.gradient(rng)
    with pytest.raises(ValueError, match=message):
        fits.fit(preconditioner, preconditioner.init(gradient), gradient)


@pytest.mark.parametrize("warm", [True, False])
def test_warm_start_and_restart(rng, warm):
    preconditioner = fits.make(
        inner_solver="momentum",
        solver_options={"steps": 1, "learning_rate": 0.01, "clip_norm": None},
        warm_start=warm,
    )
    gradient = fits.gradient(rng)
    first = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    second = fits.fit(preconditioner, first, gradient)
    for name, value in gradient.items():
        # One gradient step on m(s) = ‖g‖² (½ h s² − s).
        squared = float((value * value).sum())
        start = fits.scalars(first)[name] if warm else 1.0
        expected = start - 0.01 * squared * (fits.HESSIAN[name] * start - 1.0)
        assert fits.scalars(second)[name] == pytest.approx(expected, rel=1e-12)


def test_grafting_keeps_the_norm_of_the_input_per_parameter(rng):
    preconditioner, gradient = fits.make(grafting="norm"), fits.gradient(rng)
    gradient["b"] = np.zeros(())
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    other = fits.gradient(rng)
    other["a.bias"] = np.zeros(3)
    result, _ = preconditioner.precondition(state, {"input": other})
    for name, value in other.items():
        np.testing.assert_allclose(np.linalg.norm(result[name]), np.linalg.norm(value), rtol=1e-13)
        np.testing.assert_allclose(result[name], value, rtol=1e-13)  # a scalar keeps the direction


def test_grafting_keeps_what_u_would_turn_away(rng):
    """U x at more than a right angle to x is replaced by x; a shorter turn is kept."""
    config = configure(structure=Diagonal(), grafting="norm")
    preconditioner = Preconditioner(fits.BACKEND, config, fits.SHAPES)
    x = fits.gradient(rng)
    state = preconditioner.init(x)
    factors = {name: dict(own) for name, own in state.factors.items()}
    factors["a.weight"] = {"d": np.where(x["a.weight"] == x["a.weight"].max(), 1.0, -1.0)}
    factors["a.bias"] = {"d": np.array([3.0, 2.0, -0.0])}
    result, _ = preconditioner.precondition(state._replace(factors=factors), {"input": x})
    np.testing.assert_array_equal(result["a.weight"], x["a.weight"])
    turned = factors["a.bias"]["d"] * x["a.bias"]
    turned *= np.linalg.norm(x["a.bias"]) / np.linalg.norm(turned)
    np.testing.assert_allclose(result["a.bias"], turned, rtol=1e-13)


def test_grafting_a_span_takes_the_norm_of_the_input(rng):
    config = configure(structure=Span(), inner_solver="direct", ema_decay=0.0, grafting="norm")
    preconditioner = Preconditioner(fits.BACKEND, config, fits.SHAPES)
    gradient, noise = fits.gradient(rng), fits.gradient(rng)
    update = {name: value + 0.5 * noise[name] for name, value in gradient.items()}
    sources = {"input": update, "gradient": gradient, "update": update}
    state = preconditioner.fit(preconditioner.init(gradient), fits.model(gradient), sources)
    result, _ = preconditioner.precondition(state, sources)
    for name in fits.SHAPES:
        np.testing.assert_allclose(
            np.linalg.norm(result[name]), np.linalg.norm(update[name]), rtol=1e-13
        )
    assert np.abs(result["a.weight"] - update["a.weight"]).max() > 1e-3
    assert preconditioner.sources == {"gradient", "update"}


@pytest.mark.parametrize("solver", ["momentum", "adam", "conjugate_gradient", "direct"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["gradient", "curvature"])
def test_a_fit_on_bad_numbers_changes_nothing_but_the_count(rng, solver, bad, where):
    preconditioner, gradient = fits.make(inner_solver=solver, update_interval=9), fits.gradient(rng)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    good = fits.scalars(state)
    hessian = dict(fits.HESSIAN)
    if where == "gradient":
        gradient["a.weight"][0, 0] = bad
    else:
        hessian["a.weight"] = bad
    with np.errstate(invalid="ignore"):
        state = fits.fit(preconditioner, state, gradient, hessian=hessian)
    assert fits.scalars(state) == good
    assert (int(state.fits), int(state.rejected), int(state.last_fit.accepted)) == (1, 1, 0)
    assert int(state.next_fit) == int(state.step) + 1
    assert Status(int(state.last_fit.status)) is Status.NOT_FINITE
    text = preconditioner.describe_fit(state.last_fit)
    assert text.startswith("NOT_FINITE") and "check the curvature batch" in text
    if solver != "direct":
        assert "NOT_FINITE in block(s) a.weight" in text
    # And the next good batch is taken again.
    gradient = fits.gradient(rng)
    state = fits.fit(preconditioner, state, gradient)
    assert int(state.fits) == 2


def test_values_that_are_not_finite_fall_back_to_the_input(rng):
    preconditioner, gradient = fits.make(), fits.gradient(rng)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    factors = {name: dict(own) for name, own in state.factors.items()}
    factors["a.bias"]["s"] = np.array([np.inf])
    factors["b"]["s"] = np.array([1e200])  # finite, but its square is not
    with np.errstate(over="ignore"):
        result, state = preconditioner.precondition(
            state._replace(factors=factors), {"input": gradient}
        )
    np.testing.assert_array_equal(result["a.bias"], gradient["a.bias"])
    np.testing.assert_array_equal(result["b"], gradient["b"])
    np.testing.assert_allclose(result["a.weight"], gradient["a.weight"] / 4.0, rtol=1e-13)
    assert int(state.fallbacks) == 2


def test_states_are_never_changed_in_place(rng):
    preconditioner, gradient = fits.make(inner_solver="conjugate_gradient"), fits.gradient(rng)
    state = preconditioner.init(gradient)
    kept = {name: float(g.sum()) for name, g in gradient.items()}
    fits.fit(preconditioner, state, gradient)
    preconditioner.precondition(state, {"input": gradient})
    preconditioner.advance(state)
    assert fits.scalars(state) == dict.fromkeys(fits.SHAPES, 1.0) and int(state.step) == 0
    assert {name: float(g.sum()) for name, g in gradient.items()} == kept


def test_wrong_sources_are_refused(rng):
    preconditioner, gradient = fits.make(), fits.gradient(rng)
    state, model = preconditioner.init(gradient), fits.model(gradient)
    missing = {name: g for name, g in gradient.items() if name != "b"}
    misshapen = {**gradient, "a.bias": np.zeros(4)}
    cases = [
        ({}, r"sources must hold \['input'\], got \[\]; supply 'input'"),
        ({"input": missing}, r"sources\['input'\] must hold every parameter .* none named 'b'"),
        (
            {"input": misshapen},
            r"sources\['input'\]\['a.bias'\] must have shape \(3,\), got \(4,\)",
        ),
    ]
    for sources, message in cases:
        with pytest.raises(ValueError, match=message):
            preconditioner.fit(state, model, sources)
        with pytest.raises(ValueError, match=message):
            preconditioner.precondition(state, sources)
    with pytest.raises(ValueError, match=r"model.gradient\['a.bias'\] must have shape \(3,\)"):
        preconditioner.fit(state, fits.model(misshapen), {"input": gradient})


def test_a_span_needs_its_directions_and_the_input(rng):
    config = configure(structure=Span(), inner_solver="direct")
    preconditioner, gradient = Preconditioner(fits.BACKEND, config, fits.SHAPES), fits.gradient(rng)
    state = preconditioner.init(gradient)
    with pytest.raises(ValueError, match=r"supply 'update' or name other directions in Span"):
        preconditioner.fit(state, fits.model(gradient), {"input": gradient, "gradient": gradient})
    both = {"gradient": gradient, "update": gradient}
    preconditioner.fit(state, fits.model(gradient), both)
    with pytest.raises(ValueError, match=r"\['gradient', 'input', 'update'\].*supply 'input'"):
        preconditioner.precondition(state, both)


def test_construction_is_validated():
    with pytest.raises(ValueError, match=r"'a.bias' is diagonal; use ConjugateGradient"):
        fits.make(structure="diagonal", structure_options=None)
    with pytest.raises(ValueError, match="there are no parameters to precondition"):
        Preconditioner(fits.BACKEND, configure(), {})


def test_report_and_layout_describe_every_block():
    def choose(name, shape):
        return Diagonal() if len(shape) == 2 else Scalar(per="parameter")

    preconditioner = Preconditioner(fits.BACKEND, configure(structure=choose), fits.SHAPES)
    assert [line.split()[0] for line in preconditioner.report().splitlines()] == [
        "parameter",
        "a.bias",
        "a.weight",
        "b",
        "total:",
    ]
    layout = preconditioner.layout()
    assert layout["a.weight"] == "diagonal {'d': (2, 3)} of a.weight"
    changed = {**fits.SHAPES, "a.weight": (3, 2)}
    other = Preconditioner(fits.BACKEND, configure(structure=choose), changed).layout()
    assert layout != other and layout["b"] == other["b"]


def test_the_fold_of_the_config_wins():
    shapes = {"kernel": (3, 3, 4, 5)}
    config = configure(structure="kronecker")
    assert Preconditioner(fits.BACKEND, config, shapes).blocks[0].block_shape == (36, 5)
    own = dataclasses.replace(config, fold=lambda name, shape: 2)
    assert Preconditioner(fits.BACKEND, own, shapes).blocks[0].block_shape == (9, 20)


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
@pytest.mark.parametrize("debias", [False, True])
def test_frameworks_agree_with_numpy(rng, framework, debias):
    backend, to, back = backends.make(framework)
    config = configure(
        structure=Span(),
        inner_solver="direct",
        ema_decay=lambda fits: 0.9 - 0.1 / (1 + fits),
        ema_debias=debias,
        grafting="norm",
        damping=GradientNormDamping(),
        update_interval=lambda step: 2 + step,
    )
    vectors = [fits.gradient(rng) for _ in range(4)]

    def run(backend, to):
        preconditioner = Preconditioner(backend, config, fits.SHAPES)
        cast = [{name: to(value) for name, value in values.items()} for values in vectors]
        state = preconditioner.init(cast[0])
        for gradient, update in (cast[:2], cast[2:]):

            def loss(step, gradient=gradient):
                value = sum((gradient[n] * step[n] + step[n] ** 2).sum() for n in fits.SHAPES)
                return value, {n: gradient[n] + 2.0 * step[n] for n in fits.SHAPES}

            sources = {"input": update, "gradient": gradient, "update": update}
            state = preconditioner.fit(state, fits.model(gradient, loss_and_gradient=loss), sources)
            state = preconditioner.advance(state)
        return preconditioner.precondition(state, sources)

    (own, own_state), (other, state) = run(fits.BACKEND, np.asarray), run(backend, to)
    for name in fits.SHAPES:
        np.testing.assert_allclose(back(other[name]), own[name], rtol=1e-12)
    assert int(state.next_fit) == int(own_state.next_fit)
    np.testing.assert_allclose(back(state.smoothness), own_state.smoothness, rtol=1e-14)
