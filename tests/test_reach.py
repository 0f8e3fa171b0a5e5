"""The bound on steps between fits, by itself and in the preconditioner."""

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.reach import reaches, shortened, unbounded
from tests import backends, fits

BACKEND = NumpyBackend()


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
def test_steps_are_shortened_to_a_multiple_of_their_reach(rng, framework):
    backend, to, back = backends.make(framework)
    first = [to(rng.standard_normal(shape)) for shape in ((3,), (2, 2), (4,))]
    reach = reaches(backend, first)
    for value, length in zip(first, reach, strict=True):
        assert float(length) == pytest.approx(float(np.linalg.norm(back(value))), rel=1e-14)
    later = [1.2 * first[0], -7.0 * first[1], 0.0 * first[2]]
    found = [back(value) for value in shortened(backend, later, reach, 1.5)]
    np.testing.assert_array_equal(found[0], back(later[0]))
    np.testing.assert_allclose(found[1], -1.5 * back(first[1]), rtol=1e-14)
    np.testing.assert_array_equal(found[2], 0.0)


def test_what_had_no_step_at_the_fit_is_not_bounded():
    huge = np.full(3, 1e100)
    (reach,) = reaches(BACKEND, [np.zeros(3)])
    assert reach == np.inf == unbounded(BACKEND, huge)
    np.testing.assert_array_equal(shortened(BACKEND, [huge], [reach], 1.0)[0], huge)


def test_gradients_that_grow_between_fits_do_not_grow_the_step(rng):
    gradient = fits.gradient(rng)
    preconditioner = fits.make(update_interval=5, growth=2.0)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    step, state = preconditioner.precondition(state, {"input": gradient})
    for factor, kept in ((0.5, 0.5), (1.9, 1.9), (10.0, 2.0), (1e12, 2.0)):
        grown = {name: factor * value for name, value in gradient.items()}
        found, state = preconditioner.precondition(state, {"input": grown})
        for name, value in step.items():
            np.testing.assert_allclose(found[name], kept * value, rtol=1e-13)
    # The next fit sets a new reach.
    state = fits.fit(preconditioner, state, grown)
    found, _ = preconditioner.precondition(state, {"input": grown})
    for name, value in step.items():
        np.testing.assert_allclose(found[name], 1e12 * value, rtol=1e-13)


def test_a_fit_that_is_thrown_away_leaves_a_bound_for_the_factors_in_use(rng):
    gradient = fits.gradient(rng)
    preconditioner = fits.make(growth=1.0)
    state = fits.fit(preconditioner, preconditioner.init(gradient), gradient)
    bad = fits.fit(preconditioner, state, gradient, hessian=dict.fromkeys(fits.SHAPES, np.nan))
    assert int(bad.rejected) == 1
    for name, value in state.reach.items():
        np.testing.assert_allclose(bad.reach[name], value, rtol=1e-14)


@pytest.mark.parametrize("growth", [0.5, np.nan, np.inf, "2"])
def test_growth_is_validated(growth):
    with pytest.raises(ValueError, match="growth must be a finite number of at least 1"):
        configure(growth=growth)
