"""Loops of every backend against what they say, written out."""

import numpy as np
import pytest

from tests import backends


@pytest.mark.parametrize("framework", backends.BACKENDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_equals_the_recursion(rng, framework, reverse):
    backend, to, back = backends.make(framework)
    factors, shifts = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    start = rng.standard_normal(3)

    def body(state, rows):
        return (rows[0] * state[0] + rows[1], state[1] + state[0]), 2.0 * state[0]

    rows = (to(factors), to(shifts))
    (last, total), outputs = backend.scan(body, (to(start), to(0.0 * start)), rows, reverse=reverse)
    expected, value, summed = np.zeros((5, 3)), start, 0.0
    for index in reversed(range(5)) if reverse else range(5):
        expected[index], summed = 2.0 * value, summed + value
        value = factors[index] * value + shifts[index]
    np.testing.assert_allclose(back(outputs), expected, rtol=1e-14)
    np.testing.assert_allclose(back(last), value, rtol=1e-14)
    np.testing.assert_allclose(back(total), summed, rtol=1e-14)
    state, nothing = backend.scan(lambda s, row: (s + row[0], None), to(start), rows[:1])
    assert nothing is None
    np.testing.assert_allclose(back(state), start + factors.sum(0), rtol=1e-13)


@pytest.mark.parametrize("framework", backends.BACKENDS)
@pytest.mark.parametrize("limit", [0.5, 5.0, 100.0])
def test_repeat_calls_once_and_then_while_it_is_asked_to(framework, limit):
    backend, to, back = backends.make(framework)

    def body(value):
        return 3.0 * value, value < limit, {"used": value, "twice": 2.0 * value}

    output = backend.repeat(body, to(np.array(1.0)))
    used = 1.0
    while used < limit:
        used *= 3.0
    assert float(back(output["used"])) == used
    assert float(back(output["twice"])) == 2.0 * used
