"""Bounded quadratic minimisation against every possible set of variables at their bounds."""

import itertools

import numpy as np
import pytest

from llqr.solvers.quadratic_program import minimise
from tests import backends
from tests.solvers.quadratics import BACKEND, spd


def brute_force(matrix, right, lower):
    """Return the best feasible point over all sets of held variables."""
    n = len(right)
    best, value = None, np.inf
    for count in range(n + 1):
        for held in itertools.combinations(range(n), count):
            held = np.array(held, dtype=int)
            free = np.setdiff1d(np.arange(n), held)
            x = np.where(np.isin(np.arange(n), held), lower, 0.0)
            if free.size:
                known = matrix[np.ix_(free, held)] @ lower[held] if held.size else 0.0
                x[free] = np.linalg.solve(matrix[np.ix_(free, free)], right[free] - known)
            own = 0.5 * x @ matrix @ x - x @ right
            if (x >= lower - 1e-12).all() and own < value:
                best, value = x, own
    return best


def solved(backend, matrix, right, lower, convert=np.asarray):
    start = np.maximum(np.zeros_like(right), np.where(np.isfinite(lower), lower, 0.0))
    return minimise(
        backend,
        convert(matrix),
        convert(right),
        convert(start),
        relative_cutoff=1e-12,
        lower=convert(lower),
    )


@pytest.mark.parametrize("seed", range(30))
def test_is_the_best_of_all_active_sets(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 8))
    matrix, right = spd(rng, n), 3.0 * rng.standard_normal(n)
    lower = np.where(rng.random(n) < 0.8, rng.normal(0.0, 0.3, n), -np.inf)
    finite = np.where(np.isfinite(lower), lower, -1e6)
    expected = brute_force(matrix, right, finite)
    x, negative = solved(BACKEND, matrix, right, lower)
    assert not negative
    np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-9)
    assert (x >= lower - 1e-9).all()
    if (np.linalg.solve(matrix, right) < lower).any():
        # The bounds matter: the free minimiser, clipped, is another point of a larger value.
        clipped = np.maximum(np.linalg.solve(matrix, right), lower)

        def value(y):
            return 0.5 * y @ matrix @ y - y @ right

        assert value(x) <= value(clipped) + 1e-12


@pytest.mark.parametrize("name", backends.FRAMEWORKS)
def test_frameworks_agree(rng, name):
    backend, to, back = backends.make(name)
    matrix, right, lower = spd(rng, 6), 3.0 * rng.standard_normal(6), np.zeros(6)
    expected, _ = solved(BACKEND, matrix, right, lower)
    assert (expected == 0.0).any() and (expected > 0.0).any()
    x, _ = solved(backend, matrix, right, lower, to)
    np.testing.assert_allclose(back(x), expected, rtol=1e-10, atol=1e-12)


def test_without_bounds_it_solves(rng):
    matrix, right = spd(rng, 5), rng.standard_normal(5)
    x, _ = minimise(BACKEND, matrix, right, np.zeros(5), relative_cutoff=1e-12)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, right), rtol=1e-9)


def test_not_a_number_stays_one(rng):
    matrix, right = spd(rng, 3), rng.standard_normal(3)
    matrix[1, 1] = np.nan
    x, negative = solved(BACKEND, matrix, right, np.zeros(3))
    assert np.isnan(x).any() and not negative
