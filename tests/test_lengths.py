"""The lengths of an annealing: means over steps, and how far a block's may be from that of all."""

import numpy as np
import pytest

from llqr.lengths import BOUND, length_factor, unmeasured, with_another
from llqr.ridge import TRUSTED_RIDGE
from tests import backends

BLOCKS = ["b", "a", "c"]
WEIGHT = 4.0


def measured(backend, to, fits, names=None):
    """Means over fits, each (⟨x, g⟩ and ⟨x, Cx⟩, ν, norms of U x and of x, steps)."""
    like = to(np.array(1.0))
    lengths = unmeasured(backend, names or BLOCKS, like)
    for along, noise, solved, plain, steps in fits:
        noise = None if noise is None else to(np.array(noise))
        lengths = with_another(
            backend,
            lengths,
            tuple(to(np.array(x)) for x in along),
            length_factor(backend, noise, None, WEIGHT, like),
            BLOCKS,
            (to(np.array(solved)), to(np.array(plain))),
            backend.integer(steps, like),
        )
    return lengths


NOISES = {0.0: 1.0, 0.1: 1.4, 0.25: 2.0, 0.9: 2.0, None: 1.5, np.nan: 2.0}


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_means_are_over_steps_and_leave_out_what_is_no_length(rng, framework):
    backend, to, back = backends.make(framework)
    slopes, curvatures = rng.uniform(0.1, 5.0, (2, 6))
    solved, plain = rng.uniform(0.1, 5.0, (2, 6, 3))
    steps = [1, 4, 2, 9, 1, 3]
    good = list(
        zip(zip(slopes, curvatures, strict=True), NOISES, solved, plain, steps, strict=True)
    )
    bad = [
        (pair, noise, solved[0], plain[0], 5)
        for noise in (0.1, None)
        for pair in [
            (1.0, 0.0),
            (0.0, 1.0),
            (-1.0, 2.0),
            (1.0, -2.0),
            (np.nan, 1.0),
            (1.0, np.nan),
            (np.inf, 1.0),
        ]
    ]
    lengths = measured(backend, to, [*bad, *good, *bad])
    assert int(lengths.steps) == sum(steps)
    lone = slopes / curvatures
    logs = np.log(list(NOISES.values()) * lone)
    common = np.exp(np.average(logs, weights=steps))
    np.testing.assert_allclose(back(lengths.common), common, rtol=1e-13)
    own = np.average(solved / plain / lone[:, None], axis=0, weights=steps)
    for block, expected in zip(BLOCKS, own, strict=True):
        np.testing.assert_allclose(back(lengths.relative[block]), expected, rtol=1e-13)
    expected = common * np.clip(np.sqrt(own), 1.0 / BOUND, BOUND)
    np.testing.assert_allclose(back(lengths.of(backend, BLOCKS)), expected, rtol=1e-13)


@pytest.mark.parametrize("framework", backends.BACKENDS)
@pytest.mark.parametrize("noise", [0.1, None])
def test_a_ridge_that_has_grown_shortens_the_length(framework, noise):
    backend, to, back = backends.make(framework)
    like = to(np.array(1.0))

    def factor(ridge):
        given = None if ridge is None else to(np.array(ridge))
        known = None if noise is None else to(np.array(noise))
        return float(back(length_factor(backend, known, given, WEIGHT, like)))

    assert factor(1e-4) == factor(2.0) == factor(TRUSTED_RIDGE) == factor(None)
    for ridge in (9.0, 1e4):
        expected = factor(None) * (1.0 + TRUSTED_RIDGE) / (1.0 + ridge)
        np.testing.assert_allclose(factor(ridge), expected, rtol=1e-14)


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_a_block_is_within_the_bound_of_all(framework):
    backend, to, back = backends.make(framework)
    one_fit = ((2.0, 1.0), 0.0, [0.0, 8.0, 1e6], [1.0, 1.0, 1.0], 3)
    lengths = measured(backend, to, [one_fit])
    found = back(lengths.of(backend, BLOCKS))
    np.testing.assert_allclose(found, [2.0 / BOUND, 2.0 * np.sqrt(8.0 / 2.0), 2.0 * BOUND])


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_a_block_without_an_input_or_a_finite_step_has_the_length_of_all(framework):
    backend, to, back = backends.make(framework)
    for bad in [(0.0, 0.0), (np.nan, 1.0), (np.inf, 1.0)]:
        solved, plain = zip(bad, (8.0, 1.0), (0.5, 1.0), strict=True)
        lengths = measured(backend, to, [((2.0, 1.0), 0.0, solved, plain, 3)])
        np.testing.assert_allclose(back(lengths.of(backend, BLOCKS)), [2.0, 4.0, 1.0])


def test_the_order_in_which_a_state_holds_blocks_does_not_matter():
    """A traced dictionary comes back sorted."""
    backend, to, _ = backends.make("numpy")
    fits = [((2.0, 1.0), 0.1, [1.0, 2.0, 3.0], [0.5, 0.6, 0.7], 3)] * 2
    assert (
        measured(backend, to, fits).relative == measured(backend, to, fits, sorted(BLOCKS)).relative
    )


def test_before_the_first_fit_every_length_is_one():
    backend, to, _ = backends.make("numpy")
    lengths = unmeasured(backend, BLOCKS, to(np.array(1.0)))
    assert list(lengths.of(backend, BLOCKS)) == [1.0] * 3
