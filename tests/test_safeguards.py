"""What a preconditioned vector falls back to, and what length it takes, in every framework."""

import numpy as np
import pytest

from llqr.safeguards import finite_or, grafted
from tests import backends

SHAPES = ((3,), (2, 2), (), (0,), (5, 1))


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_list_operations(rng, framework):
    backend, to, back = backends.make(framework)
    xs, ys = ([rng.standard_normal(shape) for shape in SHAPES] for _ in range(2))
    mine, other = ([to(value) for value in values] for values in (xs, ys))
    np.testing.assert_allclose(
        back(backend.norms(mine)), [np.linalg.norm(np.ravel(x)) for x in xs], rtol=1e-14
    )
    inner = [np.ravel(x) @ np.ravel(y) for x, y in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(back(backend.dots(mine, other)), inner, rtol=1e-13)
    factors = rng.standard_normal(5)
    short = [to(value.astype(np.float32)) for value in xs]
    for values, resolution in ((mine, 1e-15), (short, 1e-6)):
        for found, value, factor, x in zip(
            backend.scaled(values, to(factors)), values, factors, xs, strict=True
        ):
            assert back(found).dtype == back(value).dtype
            np.testing.assert_allclose(back(found), factor * x, rtol=resolution)
    for flags in ([True] * 5, [False] * 5, [True, False, False, True, False]):
        chosen = backend.choose(to(np.array(flags)), mine, other)
        for flag, found, x, y in zip(flags, chosen, xs, ys, strict=True):
            np.testing.assert_array_equal(back(found), x if flag else y)


@pytest.mark.parametrize("framework", backends.BACKENDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_values_without_finite_norm_fall_back(framework, bad):
    backend, to, back = backends.make(framework)
    values = [np.ones(3), np.array([[1.0, bad]]), np.zeros(0), np.full(4, bad)]
    plain = [np.full(value.shape, 2.0) for value in values]
    values, plain = ([to(x.astype(np.float32)) for x in part] for part in (values, plain))
    with np.errstate(over="ignore"):
        chosen, count = finite_or(backend, values, plain)
    assert int(count) == 2
    for found, expected in zip(chosen, (values[0], plain[1], values[2], plain[3]), strict=True):
        np.testing.assert_array_equal(back(found), back(expected))


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_grafting(framework):
    backend, to, back = backends.make(framework)
    x = {"a": [3.0, 4.0], "b": [3.0, 4.0], "c": [3.0, 4.0], "d": [0.0, 0.0], "e": [3.0, 4.0]}
    turned = {"a": [0.0, 2.0], "b": [1.0, -2.0], "c": [4.0, -3.0], "d": [1.0, 1.0]}
    # Squares of the last one underflow: there is no length to divide by.
    turned["e"] = [3e-30, 4e-30]
    wanted = {"a": [0.0, 5.0], "b": x["b"], "c": x["c"], "d": x["d"], "e": x["e"]}
    cast = {
        name: ({k: to(np.array(v, np.float32)) for k, v in part.items()})
        for name, part in (("x", x), ("turned", turned))
    }
    found = grafted(backend, cast["turned"], cast["x"])
    assert list(found) == list(turned)
    for name, value in found.items():
        np.testing.assert_allclose(back(value), wanted[name], rtol=1e-6)
