"""The adaptive interval: when it grows, shrinks and stops."""

import numpy as np
import pytest

from llqr.curvature import Hessian
from llqr.intervals import AdaptiveInterval
from llqr.settings import LLQRConfig
from llqr.structures import Span
from tests import backends

RULE = AdaptiveInterval(longest=20, kept=0.5, patience=50)


def after(current, old, new, step=0, rule=RULE, name="numpy", noise=None):
    backend, to, back = backends.make(name)
    like = to(np.array(0.0))
    value = rule.next(
        backend,
        backend.integer(current, like),
        to(np.array(old)),
        to(np.array(new)),
        backend.integer(step, like),
        None if noise is None else to(np.array(noise)),
    )
    return int(back(value))


@pytest.mark.parametrize("name", backends.BACKENDS)
@pytest.mark.parametrize(
    ("current", "old", "new", "expected"),
    [
        (1, -0.6, -1.0, 2),  # the old factors reach more than half
        (4, -0.5, -1.0, 7),
        (4, -0.4, -1.0, 4),  # between a quarter and a half
        (4, -0.2, -1.0, 2),
        (1, 3.0, -1.0, 1),  # uphill
        (5, 0.0, -1.0, 2),
        (5, np.nan, -1.0, 2),
        (5, 0.0, 0.0, 2),  # nothing to gain
        (15, -1.0, -1.0, 20),
    ],
)
def test_rule(name, current, old, new, expected):
    assert after(current, old, new, name=name) == expected


def test_noise_cannot_keep_it_short_for_ever():
    fits, step, interval = 0, 0, 1
    while step < 5000:
        interval = after(interval, 1.0, -1.0, step)
        step, fits = step + interval, fits + 1
    # Fifty steps at every interval on the way to the longest: at most 50/k + 1 fits each.
    assert fits <= sum(50 / k + 1 for k in range(1, 20)) + (5000 - 950) / 20 + 1
    assert after(3, 1.0, -1.0, 10_000) == 20


@pytest.mark.parametrize("name", backends.BACKENDS)
@pytest.mark.parametrize(
    ("noise", "patience"),
    # Half way at ν = 1/64: exact gradients are refreshed for 50 steps at each interval, noisy ones for 10.
    [(0.0, 50), (1.0 / 64.0, 30), (1.0 / 32.0, 10), (7.0, 10), (np.nan, 10), (None, 10)],
)
def test_noise_decides_how_long_a_restless_solution_is_followed(name, noise, patience):
    rule = AdaptiveInterval(patience=10, exact_patience=50)
    for step in (0, 9, 10, 29, 30, 49, 50, 150, 900):
        found = after(1, 1.0, -1.0, step, rule, name, noise)
        assert found == min(1 + step // patience, 20)


def test_the_rule_does_not_depend_on_the_scale_of_the_loss():
    for scale in (1e-12, 1e12):
        assert after(4, -0.6 * scale, -scale) == 7 and after(4, -0.2 * scale, -scale) == 2


def test_it_needs_fits_that_start_from_the_factors_in_use():
    with pytest.raises(ValueError, match="warm_start must be True, got False"):
        LLQRConfig(curvature=Hessian(), structure=Span(), update_interval=RULE, warm_start=False)


@pytest.mark.parametrize(
    "settings",
    [{"longest": 0}, {"patience": 0}, {"exact_patience": 0}, {"noise_weight": 0.0}, {"kept": 1.0}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AdaptiveInterval(**settings)
