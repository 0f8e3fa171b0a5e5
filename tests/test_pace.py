"""A bound on annealed steps: the mean of what was taken, and how far one step may go beyond it."""

import numpy as np
import pytest

from llqr.annealing import Annealing
from llqr.pace import clip_factor, no_pace
from tests import backends, fits

GROWTH, MEMORY = 1.5, 4


def walked(framework, lengths):
    """Return the shares of steps of these lengths, L̄ after each, and how many count."""
    backend, to, back = backends.make(framework)
    pace, seen = no_pace(backend, to(np.array(1.0))), []
    for length in lengths:
        share, pace = clip_factor(backend, pace, to(np.array(length)), GROWTH, MEMORY)
        seen.append((float(back(share)), float(back(pace.length))))
    return *np.array(seen).T, int(pace.steps)


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_shares_and_means_are_those_of_the_formula(rng, framework):
    lengths = np.exp(rng.standard_normal(30))
    shares, means, counted = walked(framework, lengths)
    assert counted == 30
    taken, mean = [], 0.0
    for index, length in enumerate(lengths):
        taken.append(length if index == 0 else min(length, GROWTH * mean))
        if index < MEMORY:
            mean = np.mean(taken)
        else:
            mean += (taken[-1] - mean) / MEMORY
        np.testing.assert_allclose(means[index], mean, rtol=1e-13)
    np.testing.assert_allclose(shares, taken / lengths, rtol=1e-13)
    assert 0 < (shares < 1.0).sum() < 15


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_steps_that_stay_longer_are_reached_at_a_bounded_pace(framework):
    shares, means, _ = walked(framework, [1.0] * MEMORY + [100.0] * 60)
    rates = means[MEMORY:] / means[MEMORY - 1 : -1]
    np.testing.assert_allclose(rates[shares[MEMORY:] < 1.0], 1.0 + (GROWTH - 1.0) / MEMORY)
    assert shares[-1] == 1.0
    np.testing.assert_allclose(means[-1], 100.0, rtol=1e-2)


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_steps_of_no_length_or_of_none_that_can_be_told_are_left_alone(framework):
    odd = [0.0, np.inf, np.nan]
    shares, means, counted = walked(framework, [*odd, 2.0, *odd, 2.9, *odd, 100.0])
    assert counted == 3
    assert list(shares[:-1]) == [1.0] * (len(shares) - 1)
    np.testing.assert_allclose(means[[2, 6, 10]], [0.0, 2.0, 2.45])
    np.testing.assert_allclose(shares[-1], GROWTH * 2.45 / 100.0)


@pytest.mark.parametrize("framework", backends.BACKENDS)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_only_ratios_of_lengths_enter(rng, framework, scale):
    lengths = np.exp(rng.standard_normal(20))
    shares, means, _ = walked(framework, lengths)
    other, scaled, _ = walked(framework, scale * lengths)
    np.testing.assert_allclose(other, shares, rtol=1e-12)
    np.testing.assert_allclose(scaled, scale * means, rtol=1e-12)


RULE = Annealing(total_steps=40, solved=0.1, measured=0.1, growth=3.0, memory=5)


def annealed(inputs):
    """Return U x of every step, fitted to the first input, and the state."""
    preconditioner = fits.make(annealing=RULE)
    state, seen = preconditioner.init(inputs[0]), []
    for x in inputs:
        if bool(preconditioner.is_due(state)):
            state = fits.fit(preconditioner, state, inputs[0])
        moved, state = preconditioner.precondition(state, {"input": x})
        seen.append(moved)
        state = preconditioner.advance(state)
    return seen, state


def test_an_annealed_step_is_shortened_whole_and_keeps_its_direction(rng):
    x = fits.gradient(rng)
    longer = {name: 12.0 * value for name, value in x.items()}
    steady, _ = annealed([x] * 40)
    jumped, state = annealed([x] * 20 + [longer] * 20)
    assert int(state.pace.steps) == 40 - RULE.start
    for step in range(20):
        for name, value in steady[step].items():
            assert np.array_equal(jumped[step][name], value)
    # The share η_t still falls, whatever the bound does.
    for name, value in steady[20].items():
        np.testing.assert_allclose(jumped[20][name], 3.0 * value, rtol=1e-13)
    for step, most in ((21, 3.0 * 7 / 5), (22, 3.0 * (7 / 5) ** 2), (39, 12.0)):
        for name, value in steady[step].items():
            np.testing.assert_allclose(jumped[step][name], most * value, rtol=1e-13)


def test_solved_steps_neither_count_nor_are_bounded(rng):
    x = fits.gradient(rng)
    longer = {name: 1e3 * value for name, value in x.items()}
    seen, state = annealed([x, longer, x])
    assert (float(state.pace.length), int(state.pace.steps)) == (0.0, 0)
    for name, value in seen[0].items():
        np.testing.assert_allclose(seen[1][name], 1e3 * value, rtol=1e-13)


BAD = {
    "growth must be a finite number of at least 1, got 0.9": {"growth": 0.9},
    "growth must be a finite number of at least 1, got nan": {"growth": np.nan},
    "memory must be an integer of at least 1, got 0": {"memory": 0},
    "memory must be an integer of at least 1, got 2.5": {"memory": 2.5},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_are_validated(message):
    with pytest.raises(ValueError, match=message):
        Annealing(total_steps=10, **BAD[message])
