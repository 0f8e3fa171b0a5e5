"""The factor on solved steps that went too far: by itself, in the preconditioner and in both shells."""

from dataclasses import replace
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from llqr import presets
from llqr.annealing import Annealing
from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.intervals import AdaptiveInterval
from llqr.multiplier import AdaptiveMultiplier, Multiplier, check_anchor, initial
from llqr.ridge import AdaptiveRidge
from tests import backends, fits

BACKEND = NumpyBackend()
RULE = AdaptiveMultiplier(factor=3.0, recovery=2, patience=2, smallest=0.02, memory=3)


def by_hand(history, rule):
    """Return every η of a run, written from the formula in plain numbers.

    Runs with a loss that is the mean before it are none: rounding decides whether that is above.
    """
    eta, failures, seen, values = 1.0, 0, [], []
    for sign, loss, ridge in history:
        failed, h = False, sign if rule.slopes else -1.0
        if seen:
            level = 0.0
            for number, own in enumerate(seen):
                level += max(1.0 / (number + 1), 1.0 / rule.memory) * (own - level)
            hypothesis.assume(abs(loss - level) > 1e-9 * max(map(abs, seen)))
            lost = loss > seen[0] and loss > seen[-1] and (ridge is None or ridge <= 8.0)
            failed = lost or (h > 0.0 and loss > level)
        if failed:
            failures += 1
            eta = max(rule.smallest, eta / rule.factor ** min(failures, rule.patience))
        elif h < 0.0:
            eta, failures = min(1.0, eta * rule.factor ** (1.0 / rule.recovery)), 0
        seen.append(loss)
        values.append(eta)
    return values


@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.sampled_from([-1.0, 0.0, 1.0]),
            strategies.floats(-100.0, 100.0),
            strategies.sampled_from([None, 0.0, 8.0, 9.0]),
        ),
        min_size=1,
        max_size=12,
    ),
    strategies.booleans(),
)
def test_the_factor_follows_the_formula(history, slopes):
    rule = replace(RULE, slopes=slopes)
    place = np.zeros(2)
    multiplier, found = initial(BACKEND, {"p": place} if slopes else {}, np.ones(())), []
    for sign, loss, ridge in history:
        # The slope's size and the length of the way say nothing.
        place = place + np.array([1e-3, 7.0])
        gradient = sign * np.array([0.0, 1e5])
        multiplier = rule.following(
            BACKEND,
            multiplier,
            {"p": gradient},
            {"p": place},
            np.asarray(loss),
            None if ridge is None else np.asarray(ridge),
        )
        found.append(float(multiplier.value))
        assert list(multiplier.anchor) == ["p"] * slopes
        for kept in multiplier.anchor.values():
            np.testing.assert_array_equal(kept, place)
    np.testing.assert_allclose(found, by_hand(history, rule), rtol=1e-12)


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
        for name in ("first", "last", "level"):
            known = float(getattr(here, name))
            assert float(back(getattr(there, name))) == pytest.approx(known, rel=1e-13)
        assert (int(there.failures), int(there.losses)) == (int(here.failures), int(here.losses))
    assert 0.02 <= float(here.value) < 1.0


def test_what_is_not_a_number_does_not_spread():
    old = Multiplier(
        value=np.asarray(0.5),
        failures=np.asarray(1, np.int32),
        first=np.asarray(10.0),
        last=np.asarray(1.0),
        level=np.asarray(2.0),
        losses=np.asarray(4, np.int32),
        anchor={"p": np.zeros(2)},
    )
    there = {"p": np.ones(2)}
    unknown = RULE.following(BACKEND, old, {"p": np.full(2, np.nan)}, there, np.asarray(9.0))
    assert (float(unknown.value), int(unknown.failures)) == (0.5, 1)
    # A loss that is not finite is worse than any, with a slope or without, and none that later ones go by.
    for loss in (np.nan, np.inf):
        for rule, kept in ((RULE, old), (replace(RULE, slopes=False), old._replace(anchor={}))):
            burst = rule.following(BACKEND, kept, {"p": np.ones(2)}, there, np.asarray(loss))
            assert float(burst.value) == pytest.approx(0.5 / 9.0)
            assert (float(burst.last), float(burst.level), int(burst.losses)) == (1.0, 2.0, 4)


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

    def loss_at(step):
        along = sum((gradient[name] * x).sum() for name, x in step.items())
        curved = sum(fits.HESSIAN[name] * (x * x).sum() for name, x in step.items())
        return np.asarray(loss + along + 0.5 * curved)

    model = fits.model(gradient, loss_here=np.asarray(loss), loss=loss_at)
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


SOLVED = {"inner_solver": "direct", "solver_options": {"relative_ridge": AdaptiveRidge()}}


def test_without_slopes_a_lost_loss_shortens_steps_and_asks_for_another_fit(rng):
    rule = replace(RULE, slopes=False)
    made = preconditioner(multiplier=rule, update_interval=AdaptiveInterval(longest=9), **SOLVED)
    gradient = fits.gradient(rng)
    state, found = made.init(gradient), []
    assert state.multiplier.anchor == {}
    # Below the first loss, above it and rising, still above but falling, with a ridge that has reacted.
    for loss, ridge in ((1.0, 2.0), (0.5, 2.0), (3.0, 8.0), (2.0, 2.0), (4.0, 8.5)):
        state = state._replace(ridge=np.asarray(ridge), interval=np.asarray(4, np.int32))
        state, _ = fitted(made, state, gradient, None, loss)
        found.append((float(state.multiplier.value), int(state.interval)))
        assert int(state.next_fit) == int(state.step) + int(state.interval)
    values, intervals = zip(*found, strict=True)
    grown = RULE.factor ** (1.0 / RULE.recovery)
    np.testing.assert_allclose(values, [1.0, 1.0, 1 / 3, grown / 3, 1.0], rtol=1e-12)
    assert intervals[2] == 1
    assert min(intervals[1], *intervals[3:]) > 1


def test_annealed_lengths_are_multiplied_too(rng):
    rule = Annealing(total_steps=4, solved=0.25, measured=0.25)
    made = preconditioner(multiplier=replace(RULE, slopes=False), annealing=rule, **SOLVED)
    gradient = fits.gradient(rng)
    state, sources = fitted(made, made.init(gradient), gradient, None, loss=1.0)
    begun = made.advance(state)
    plain, _ = made.precondition(begun, sources)
    less = begun._replace(multiplier=begun.multiplier._replace(value=np.asarray(0.25)))
    short, _ = made.precondition(less, sources)
    for name, value in plain.items():
        assert np.abs(value).max() > 0.0
        np.testing.assert_allclose(short[name], 0.25 * value, rtol=1e-12)


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


def test_step_sizes_have_it_where_steps_have_the_solved_length():
    assert presets.step_sizes("categorical").multiplier == AdaptiveMultiplier()
    annealed = presets.step_sizes("categorical", total_steps=70).multiplier
    assert annealed == AdaptiveMultiplier(slopes=False)
    assert presets.step_sizes("categorical", apply_to="gradient").multiplier is None
    assert presets.step_sizes("categorical", grafting="norm").multiplier is None
    assert presets.step_sizes("categorical", multiplier=None).multiplier is None


def test_a_state_keeps_the_parameters_of_its_configuration(rng):
    gradient = fits.gradient(rng)
    made, without = preconditioner(), preconditioner(multiplier=None)
    kept, nothing = (each.init(gradient).multiplier.anchor for each in (made, without))
    check_anchor(RULE, fits.SHAPES, kept)
    check_anchor(None, fits.SHAPES, nothing)
    check_anchor(replace(RULE, slopes=False), fits.SHAPES, nothing)
    with pytest.raises(ValueError, match="its multiplier must keep 3 parameters"):
        check_anchor(RULE, fits.SHAPES, nothing)
    with pytest.raises(ValueError, match="its multiplier must keep 0 parameters"):
        check_anchor(None, fits.SHAPES, kept)
