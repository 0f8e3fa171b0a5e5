"""The factor on solved steps that went too far: by itself, in the preconditioner and in both shells."""

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from llqr import presets
from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.multiplier import AdaptiveMultiplier, Multiplier, check_anchor, initial
from tests import backends, fits

BACKEND = NumpyBackend()
RULE = AdaptiveMultiplier(factor=3.0, recovery=2, patience=2, smallest=0.02, memory=3)


def by_hand(signs, losses, rule):
    """Return every η of a run, written from the formula in plain numbers.

    Runs with a loss that is the mean before it are none: rounding decides whether that is above.
    """
    eta, failures, seen, values = 1.0, 0, [], []
    for sign, loss in zip(signs, losses, strict=True):
        level = None
        for number, own in enumerate(seen):
            share = max(1.0 / (number + 1), 1.0 / rule.memory)
            level = own if number == 0 else level + share * (own - level)
        if level is not None:
            hypothesis.assume(abs(loss - level) > 1e-9 * max(map(abs, seen)))
        if sign < 0:
            eta, failures = min(1.0, eta * rule.factor ** (1.0 / rule.recovery)), 0
        elif sign > 0 and level is not None and loss > level:
            failures += 1
            eta = max(rule.smallest, eta / rule.factor ** min(failures, rule.patience))
        seen.append(loss)
        values.append(eta)
    return values


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from([-1.0, 0.0, 1.0]), strategies.floats(-100.0, 100.0)
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_factor_follows_the_formula(history):
    signs, losses = zip(*history, strict=True)
    place = np.zeros(2)
    multiplier, found = initial(BACKEND, {"p": place}, np.ones(())), []
    for sign, loss in history:
        # The slope's size and the length of the way say nothing.
        place = place + np.array([1e-3, 7.0])
        gradient = sign * np.array([0.0, 1e5])
        multiplier = RULE.following(
            BACKEND, multiplier, {"p": gradient}, {"p": place}, np.asarray(loss)
        )
        found.append(float(multiplier.value))
        np.testing.assert_array_equal(multiplier.anchor["p"], place)
    np.testing.assert_allclose(found, by_hand(signs, losses, RULE), rtol=1e-12)


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
def test_every_framework_agrees(rng, framework):
    backend, to, back = backends.make(framework)
    shapes = {"a": (2, 3), "b": ()}

    def draw():
        return {name: rng.standard_normal(shape) for name, shape in shapes.items()}

    start = draw()
    here = initial(BACKEND, start, np.ones(()))
    there = initial(backend, {n: to(v) for n, v in start.items()}, to(np.ones(())))
    for loss in rng.standard_normal(20):
        gradient, parameters = draw(), draw()
        here = RULE.following(BACKEND, here, gradient, parameters, np.asarray(loss))
        there = RULE.following(
            backend,
            there,
            {name: to(value) for name, value in gradient.items()},
            {name: to(value) for name, value in parameters.items()},
            to(np.asarray(loss)),
        )
        assert float(back(there.value)) == pytest.approx(float(here.value), rel=1e-13)
        assert float(back(there.level)) == pytest.approx(float(here.level), rel=1e-13)
        assert (int(there.failures), int(there.losses)) == (int(here.failures), int(here.losses))
    assert 0.02 <= float(here.value) < 1.0


def test_what_is_not_a_number_does_not_spread():
    old = Multiplier(
        value=np.asarray(0.5),
        failures=np.asarray(1, np.int32),
        level=np.asarray(2.0),
        losses=np.asarray(4, np.int32),
        anchor={"p": np.zeros(2)},
    )
    there = {"p": np.ones(2)}
    unknown = RULE.following(BACKEND, old, {"p": np.full(2, np.nan)}, there, np.asarray(9.0))
    assert (float(unknown.value), int(unknown.failures)) == (0.5, 1)
    # A loss that is not finite is worse than any, and no level for later ones.
    for loss in (np.nan, np.inf):
        burst = RULE.following(BACKEND, old, {"p": np.ones(2)}, there, np.asarray(loss))
        assert float(burst.value) == pytest.approx(0.5 / 9.0)
        assert (float(burst.level), int(burst.losses)) == (2.0, 4)


def preconditioner(**settings):
    chosen: dict[str, Any] = {
        "structure": "span",
        "structure_options": {"directions": ("update",), "per": "parameter"},
        "apply_to": "update",
        "multiplier": RULE,
    }
    return fits.make(**{**chosen, **settings})


def fitted(made, state, gradient, parameters, loss):
    sources = {"input": gradient, "update": gradient, "gradient": gradient}
    model = fits.model(gradient, loss_here=np.asarray(loss))
    return made.fit(state, model, sources, parameters=parameters), sources


def test_steps_get_shorter_after_one_that_went_too_far(rng):
    gradient, made = fits.gradient(rng), preconditioner()
    start = {name: np.zeros(shape) for name, shape in fits.SHAPES.items()}
    state, sources = fitted(made, made.init(start), gradient, start, loss=1.0)
    first, state = made.precondition(state, sources)
    # Uphill by the new gradient, and the loss is higher: too far.
    state, _ = fitted(made, state, gradient, gradient, loss=2.0)
    second, state = made.precondition(state, sources)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value / RULE.factor, rtol=1e-12)
    # The same, but the loss has fallen: nothing changes.
    beyond = {name: 2.0 * value for name, value in gradient.items()}
    state, _ = fitted(made, state, gradient, beyond, loss=0.5)
    third, _ = made.precondition(state, sources)
    for name, value in second.items():
        np.testing.assert_allclose(third[name], value, rtol=1e-12)


def test_a_fit_without_what_the_rule_needs_is_refused(rng):
    gradient, made = fits.gradient(rng), preconditioner()
    state = made.init(gradient)
    sources = {"input": gradient, "update": gradient, "gradient": gradient}
    with pytest.raises(ValueError, match="parameters must be given to a fit with a multiplier"):
        made.fit(state, fits.model(gradient, loss_here=np.asarray(1.0)), sources)
    with pytest.raises(ValueError, match="loss at θ needs"):
        made.fit(state, fits.model(gradient), sources, parameters=gradient)
    del sources["gradient"]
    with pytest.raises(ValueError, match="supply 'gradient'"):
        made.fit(state, fits.model(gradient), sources, parameters=gradient)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 1.0}, "factor must be above 1, got 1.0"),
        ({"factor": float("inf")}, "factor must be"),
        ({"smallest": 0.0}, "smallest must be"),
        ({"smallest": 1.5}, "smallest must be at most 1, got 1.5"),
        ({"recovery": 0}, "recovery must be"),
        ({"patience": 1.5}, "patience must be"),
        ({"memory": True}, "memory must be"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        AdaptiveMultiplier(**settings)


@pytest.mark.parametrize("wrong", [{"apply_to": "gradient"}, {"grafting": "norm"}])
def test_it_needs_updates_whose_length_it_may_change(wrong):
    settings = {"apply_to": "update", "multiplier": RULE, **wrong}
    with pytest.raises(ValueError, match="a multiplier changes the length of steps"):
        configure(**settings)


def test_a_rule_must_be_an_object():
    with pytest.raises(TypeError, match=r"multiplier must be an object such as AdaptiveMultiplier"):
        configure(apply_to="update", multiplier=0.5)


def test_step_sizes_have_it_where_nothing_else_shortens_steps():
    assert presets.step_sizes("categorical").multiplier == AdaptiveMultiplier()
    assert presets.step_sizes("categorical", total_steps=70).multiplier is None
    assert presets.step_sizes("categorical", apply_to="gradient").multiplier is None
    assert presets.step_sizes("categorical", grafting="norm").multiplier is None
    assert presets.step_sizes("categorical", multiplier=None).multiplier is None


def test_a_state_keeps_the_parameters_of_its_configuration(rng):
    gradient = fits.gradient(rng)
    made, without = preconditioner(), preconditioner(multiplier=None)
    kept, nothing = (each.init(gradient).multiplier.anchor for each in (made, without))
    check_anchor(RULE, fits.SHAPES, kept)
    check_anchor(None, fits.SHAPES, nothing)
    with pytest.raises(ValueError, match="its multiplier must keep 3 parameters"):
        check_anchor(RULE, fits.SHAPES, nothing)
    with pytest.raises(ValueError, match="its multiplier must keep 0 parameters"):
        check_anchor(None, fits.SHAPES, kept)
