"""When factors are fitted, how fits are averaged, applied, grafted, rejected and described."""

import dataclasses

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.damping import GradientNormDamping
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel
from llqr.solvers import Status
from llqr.structures import Diagonal, Scalar, Span
from tests import backends

BACKEND = NumpyBackend()
SHAPES = {"a.weight": (2, 3), "a.bias": (3,), "b": ()}
HESSIAN = {"a.weight": 4.0, "a.bias": 0.5, "b": 2.0}  # C, a multiple of the identity per parameter


def _gradient(rng):
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def _model(gradient, hessian=None, **settings):
    hessian = hessian or HESSIAN
    return QuadraticModel(
        gradient=gradient,
        curvature_product=lambda v: {name: hessian[name] * x for name, x in v.items()},
        **settings,
    )


def _make(**settings):
    """A solver that finds the minimiser: for C = h I per parameter, the diagonal's is d = 1/h."""
    chosen = {
        "structure": "scalar",
        "structure_options": {"per": "parameter"},
        "inner_solver": "direct",
        "ema_decay": 0.0,
        "update_interval": 1,
    }
    return Preconditioner(BACKEND, configure(**{**chosen, **settings}), SHAPES)


def _scalars(state):
    return {name: float(own["s"][0]) for name, own in state.factors.items()}


def _fit(preconditioner, state, gradient, **settings):
    return preconditioner.fit(state, _model(gradient, **settings), {"input": gradient})


def test_starts_as_the_identity(rng):
    preconditioner, gradient = _make(), _gradient(rng)
    state = preconditioner.init(gradient)
    result, after = preconditioner.precondition(state, {"input": gradient})
    for name, value in gradient.items():
        np.testing.assert_array_equal(result[name], value)
        assert result[name].shape == SHAPES[name]
    assert int(after.fallbacks) == 0
    assert bool(preconditioner.is_due(state))  # the first step is due
    assert Status(int(state.last_fit.status)) is Status.RUNNING
    assert preconditioner.describe_fit(state.last_fit).startswith("RUNNING: the solver has not")


def test_a_fit_is_the_solvers_and_is_applied(rng):
    preconditioner, gradient = _make(), _gradient(rng)
    state = _fit(preconditioner, preconditioner.init(gradient), gradient)
    for name, value in _scalars(state).items():
        assert value == pytest.approx(1.0 / HESSIAN[name], rel=1e-14)
    other = _gradient(rng)
    result, _ = preconditioner.precondition(state, {"input": other})
    for name, value in other.items():
        np.testing.assert_allclose(result[name], value / HESSIAN[name], rtol=1e-13)
    assert int(state.fits) == 1 and int(state.rejected) == 0
    assert int(state.last_fit.accepted) == 1 and int(state.last_fit.products) == 3


def test_a_constant_damping_enters_the_model(rng):
    preconditioner, gradient = _make(damping=0.5), _gradient(rng)
    state = _fit(preconditioner, preconditioner.init(gradient), gradient)
    for name, value in _scalars(state).items():
        assert value == pytest.approx(1.0 / (HESSIAN[name] + 0.5), rel=1e-14)
    assert float(state.last_fit.damping) == 0.5


def _due_steps(preconditioner, gradient, steps):
    state, due = preconditioner.init(gradient), []
    for step in range(steps):
        if bool(preconditioner.is_due(state)):
            due.append(step)
            state = _fit(preconditioner, state, gradient)
        state = preconditioner.advance(state)
    return due, state


def test_fits_are_due_every_update_interval(rng):
    due, state = _due_steps(_make(update_interval=4), _gradient(rng), 10)
    assert due == [0, 4, 8] and int(state.step) == 10 and int(state.next_fit) == 12


def test_the_interval_may_be_a_schedule_of_the_step(rng):
    due, _ = _due_steps(_make(update_interval=lambda step: 1 + step), _gradient(rng), 20)
    assert due == [0, 1, 3, 7, 15]


def test_the_average_is_exact(rng):
    preconditioner = _make(ema_decay=0.75)
    gradient = _gradient(rng)
    state, expected = preconditioner.init(gradient), dict.fromkeys(SHAPES, 1.0)
    for factor in (1.0, 3.0, 0.2):
        hessian = {name: factor * value for name, value in HESSIAN.items()}
        state = _fit(preconditioner, state, gradient, hessian=hessian)
        for name in expected:
            expected[name] = 0.75 * expected[name] + 0.25 / hessian[name]
            assert _scalars(state)[name] == pytest.approx(expected[name], rel=1e-14)


def test_the_debiased_average_weighs_fits_as_if_there_had_been_no_start(rng):
    beta = 0.8
    preconditioner = _make(ema_decay=beta, ema_debias=True)
    gradient = _gradient(rng)
    state, fitted = preconditioner.init(gradient), []
    for factor in (1.0, 3.0, 0.2, 5.0):
        state = _fit(
            preconditioner, state, gradient, hessian={n: factor * h for n, h in HESSIAN.items()}
        )
        fitted.append(1.0 / factor)
        weights = beta ** np.arange(len(fitted))[::-1]
        expected = weights @ np.array(fitted) / weights.sum()
        for name, value in _scalars(state).items():
            assert value == pytest.approx(expected / HESSIAN[name], rel=1e-13)


def test_the_decay_may_be_a_schedule_of_the_fits(rng):
    preconditioner = _make(ema_decay=lambda fits: 0.0 if fits == 0 else 0.5)
    gradient = _gradient(rng)
    state = _fit(preconditioner, preconditioner.init(gradient), gradient)
    assert _scalars(state)["b"] == pytest.approx(0.5, rel=1e-14)
    state = _fit(preconditioner, state, gradient, hessian={n: 2 * h for n, h in HESSIAN.items()})
    assert _scalars(state)["b"] == pytest.approx(0.375, rel=1e-14)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"ema_decay": lambda fits: 1.5}, r"ema_decay's schedule must lie in \[0, 1\), got 1.5"),
        ({"update_interval": lambda step: 0}, "update_interval's schedule must be .*got 0"),
    ],
)
def test_schedules_out_of_range_are_refused(rng, settings, message):
    preconditioner, gradient = _make(**settings), _gradient(rng)
    with pytest.raises(ValueError, match=message):
        _fit(preconditioner, preconditioner.init(gradient), gradient)


@pytest.mark.parametrize("warm", [True, False])
def test_warm_start_and_restart(rng, warm):
    preconditioner = _make(
        inner_solver="momentum",
        solver_options={"steps": 1, "learning_rate": 0.01, "clip_norm": None},
        warm_start=warm,
    )
    gradient = _gradient(rng)
    first = _fit(preconditioner, preconditioner.init(gradient), gradient)
    second = _fit(preconditioner, first, gradient)
    for name, value in gradient.items():
        # One gradient step on m(s) = ‖g‖² (½ h s² − s).
        squared = float((value * value).sum())
        start = _scalars(first)[name] if warm else 1.0
        expected = start - 0.01 * squared * (HESSIAN[name] * start - 1.0)
        assert _scalars(second)[name] == pytest.approx(expected, rel=1e-12)


def test_grafting_keeps_the_norm_of_the_input_per_parameter(rng):
    preconditioner, gradient = _make(grafting="norm"), _gradient(rng)
    gradient["b"] = np.zeros(())
    state = _fit(preconditioner, preconditioner.init(gradient), gradient)
    other = _gradient(rng)
    other["a.bias"] = np.zeros(3)
    result, _ = preconditioner.precondition(state, {"input": other})
    for name, value in other.items():
        np.testing.assert_allclose(np.linalg.norm(result[name]), np.linalg.norm(value), rtol=1e-13)
        np.testing.assert_allclose(result[name], value, rtol=1e-13)  # a scalar keeps the direction


def test_grafting_a_span_takes_the_norm_of_the_input(rng):
    config = configure(structure=Span(), inner_solver="direct", ema_decay=0.0, grafting="norm")
    preconditioner = Preconditioner(BACKEND, config, SHAPES)
    gradient, update = _gradient(rng), _gradient(rng)
    sources = {"input": update, "gradient": gradient, "update": update}
    state = preconditioner.fit(preconditioner.init(gradient), _model(gradient), sources)
    result, _ = preconditioner.precondition(state, sources)
    for name in SHAPES:
        np.testing.assert_allclose(
            np.linalg.norm(result[name]), np.linalg.norm(update[name]), rtol=1e-13
        )
    assert np.abs(result["a.weight"] - update["a.weight"]).max() > 1e-3
    assert preconditioner.sources == {"gradient", "update"}


def _damped(**settings):
    return _make(damping=GradientNormDamping(initial=1.0, **settings))


def _with_loss(gradient, loss_at):
    return _model(gradient, loss_and_gradient=loss_at)


def _quadratic_loss(gradient):
    """L with this gradient and the Hessian of the model: every γ is accepted on it."""

    def evaluate(step):
        value = sum(
            float((gradient[n] * step[n]).sum() + 0.5 * HESSIAN[n] * (step[n] ** 2).sum())
            for n in SHAPES
        )
        return np.asarray(value), {n: gradient[n] + HESSIAN[n] * step[n] for n in SHAPES}

    return evaluate


def test_gradient_norm_damping_accepts_and_doubles(rng):
    preconditioner, gradient = _damped(), _gradient(rng)
    norm = np.sqrt(sum((g * g).sum() for g in gradient.values()))
    state = preconditioner.init(gradient)
    for gamma in (1.0, 2.0, 4.0):
        assert float(state.smoothness) == gamma
        state = preconditioner.fit(
            state, _with_loss(gradient, _quadratic_loss(gradient)), {"input": gradient}
        )
        assert float(state.last_fit.damping) == pytest.approx(norm / gamma, rel=1e-13)
        for name, value in _scalars(state).items():
            assert value == pytest.approx(1.0 / (HESSIAN[name] + norm / gamma), rel=1e-13)
    assert int(state.fits) == 3 and int(state.rejected) == 0


def test_gradient_norm_damping_rejects_halves_and_tries_again(rng):
    preconditioner = _make(damping=GradientNormDamping(), update_interval=50)
    gradient = _gradient(rng)

    def rising(step):
        length = sum(float((s * s).sum()) for s in step.values())
        return np.asarray(length), {n: 2.0 * s for n, s in step.items()}

    state = preconditioner.init(gradient)
    state = preconditioner.fit(state, _with_loss(gradient, rising), {"input": gradient})
    assert float(state.smoothness) == 0.5
    assert (int(state.fits), int(state.rejected), int(state.last_fit.accepted)) == (0, 1, 0)
    assert _scalars(state) == dict.fromkeys(SHAPES, 1.0)
    assert int(state.next_fit) == 1  # not 50


def test_gradient_norm_damping_on_its_known_problem():
    """The minimiser's path of γ on L = ½ h θ² with curvature 0 (see tests/test_damping.py).

    γ doubles while γ ≤ θ (√8 − 1) and is halved above it: with θ = 2 the limit is 3.66.
    """
    config = configure(
        structure="scalar",
        inner_solver="direct",
        damping="gradient_norm",
        ema_decay=0.0,
        update_interval=1,
    )
    preconditioner = Preconditioner(BACKEND, config, {"x": (1,)})
    h, theta = 5.0, np.array([2.0])
    gradient = {"x": h * theta}
    model = QuadraticModel(
        gradient=gradient,
        curvature_product=lambda v: {"x": 0.0 * v["x"]},
        loss_and_gradient=lambda step: (
            np.asarray(0.5 * h * ((theta + step["x"]) ** 2).sum()),
            {"x": h * (theta + step["x"])},
        ),
    )
    state, path = preconditioner.init(gradient), []
    for _ in range(6):
        state = preconditioner.fit(state, model, {"input": gradient})
        path.append((float(state.smoothness), int(state.last_fit.accepted)))
    # γ = 1, 2 accepted; 4 rejected; then 2 accepted, 4 rejected, …
    assert path == [(2.0, 1), (4.0, 1), (2.0, 0), (4.0, 1), (2.0, 0), (4.0, 1)]


def test_gradient_norm_damping_needs_the_loss(rng):
    preconditioner, gradient = _damped(), _gradient(rng)
    with pytest.raises(ValueError, match=r"needs model.loss_and_gradient .* got None; supply it"):
        _fit(preconditioner, preconditioner.init(gradient), gradient)


@pytest.mark.parametrize("solver", ["momentum", "adam", "conjugate_gradient", "direct"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["gradient", "curvature"])
def test_a_fit_on_bad_numbers_changes_nothing_but_the_count(rng, solver, bad, where):
    preconditioner, gradient = _make(inner_solver=solver, update_interval=9), _gradient(rng)
    state = _fit(preconditioner, preconditioner.init(gradient), gradient)
    good = _scalars(state)
    hessian = dict(HESSIAN)
    if where == "gradient":
        gradient["a.weight"][0, 0] = bad
    else:
        hessian["a.weight"] = bad
    with np.errstate(invalid="ignore"):
        state = _fit(preconditioner, state, gradient, hessian=hessian)
    assert _scalars(state) == good
    assert (int(state.fits), int(state.rejected), int(state.last_fit.accepted)) == (1, 1, 0)
    assert int(state.next_fit) == int(state.step) + 1
    assert Status(int(state.last_fit.status)) is Status.NOT_FINITE
    text = preconditioner.describe_fit(state.last_fit)
    assert text.startswith("NOT_FINITE") and "check the curvature batch" in text
    if solver != "direct":
        assert "NOT_FINITE in block(s) a.weight" in text
    # And the next good batch is taken again.
    gradient = _gradient(rng)
    state = _fit(preconditioner, state, gradient)
    assert int(state.fits) == 2


def test_values_that_are_not_finite_fall_back_to_the_input(rng):
    preconditioner, gradient = _make(), _gradient(rng)
    state = _fit(preconditioner, preconditioner.init(gradient), gradient)
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
    preconditioner, gradient = _make(inner_solver="conjugate_gradient"), _gradient(rng)
    state = preconditioner.init(gradient)
    kept = {name: float(g.sum()) for name, g in gradient.items()}
    _fit(preconditioner, state, gradient)
    preconditioner.precondition(state, {"input": gradient})
    preconditioner.advance(state)
    assert _scalars(state) == dict.fromkeys(SHAPES, 1.0) and int(state.step) == 0
    assert {name: float(g.sum()) for name, g in gradient.items()} == kept


def test_wrong_sources_are_refused(rng):
    preconditioner, gradient = _make(), _gradient(rng)
    state, model = preconditioner.init(gradient), _model(gradient)
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
        preconditioner.fit(state, _model(misshapen), {"input": gradient})


def test_a_span_needs_its_directions_and_the_input(rng):
    config = configure(structure=Span(), inner_solver="direct")
    preconditioner, gradient = Preconditioner(BACKEND, config, SHAPES), _gradient(rng)
    state = preconditioner.init(gradient)
    with pytest.raises(ValueError, match=r"supply 'update' or name other directions in Span"):
        preconditioner.fit(state, _model(gradient), {"input": gradient, "gradient": gradient})
    both = {"gradient": gradient, "update": gradient}
    preconditioner.fit(state, _model(gradient), both)
    with pytest.raises(ValueError, match=r"\['gradient', 'input', 'update'\].*supply 'input'"):
        preconditioner.precondition(state, both)


def test_construction_is_validated():
    with pytest.raises(ValueError, match=r"'a.bias' is diagonal; use ConjugateGradient"):
        _make(structure="diagonal", structure_options=None)
    with pytest.raises(ValueError, match="there are no parameters to precondition"):
        Preconditioner(BACKEND, configure(), {})


def test_report_and_layout_describe_every_block():
    def choose(name, shape):
        return Diagonal() if len(shape) == 2 else Scalar(per="parameter")

    preconditioner = Preconditioner(BACKEND, configure(structure=choose), SHAPES)
    assert [line.split()[0] for line in preconditioner.report().splitlines()] == [
        "parameter",
        "a.bias",
        "a.weight",
        "b",
        "total:",
    ]
    layout = preconditioner.layout()
    assert layout["a.weight"] == "diagonal {'d': (2, 3)} of a.weight"
    changed = {**SHAPES, "a.weight": (3, 2)}
    other = Preconditioner(BACKEND, configure(structure=choose), changed).layout()
    assert layout != other and layout["b"] == other["b"]


def test_the_fold_of_the_config_wins():
    shapes = {"kernel": (3, 3, 4, 5)}
    config = configure(structure="kronecker")
    assert Preconditioner(BACKEND, config, shapes).blocks[0].block_shape == (36, 5)
    own = dataclasses.replace(config, fold=lambda name, shape: 2)
    assert Preconditioner(BACKEND, own, shapes).blocks[0].block_shape == (9, 20)


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
    vectors = [_gradient(rng) for _ in range(4)]

    def run(backend, to):
        preconditioner = Preconditioner(backend, config, SHAPES)
        cast = [{name: to(value) for name, value in values.items()} for values in vectors]
        state = preconditioner.init(cast[0])
        for gradient, update in (cast[:2], cast[2:]):

            def loss(step, gradient=gradient):
                value = sum((gradient[n] * step[n] + step[n] ** 2).sum() for n in SHAPES)
                return value, {n: gradient[n] + 2.0 * step[n] for n in SHAPES}

            sources = {"input": update, "gradient": gradient, "update": update}
            state = preconditioner.fit(state, _model(gradient, loss_and_gradient=loss), sources)
            state = preconditioner.advance(state)
        return preconditioner.precondition(state, sources)

    (own, own_state), (other, state) = run(BACKEND, np.asarray), run(backend, to)
    for name in SHAPES:
        np.testing.assert_allclose(back(other[name]), own[name], rtol=1e-12)
    assert int(state.next_fit) == int(own_state.next_fit)
    np.testing.assert_allclose(back(state.smoothness), own_state.smoothness, rtol=1e-14)
