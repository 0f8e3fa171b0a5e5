"""The JAX operations against the NumPy ones, compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.jax import JaxBackend
from tests.jax.networks import quick_jit

JAX, NUMPY = JaxBackend(), NumpyBackend()
X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
SYMMETRIC = X @ X.T
OPERATIONS = {
    "einsum": lambda b, x: b.einsum("ij,kj->ik", x, x),
    "zeros": lambda b, x: b.zeros([2, 0], x),
    "ones": lambda b, x: b.ones((2,), x),
    "asarray number": lambda b, x: b.asarray(1.5, x),
    "asarray array": lambda b, x: b.asarray(np.eye(3), x),
    "integer": lambda b, x: b.integer(7, x),
    "where": lambda b, x: b.where(x > 0.0, x, 0.0 * x),
    "maximum": lambda b, x: b.maximum(x, 0.25),
    "finite": lambda b, x: b.isfinite(x),
    "not finite": lambda b, x: b.isfinite(b.asarray([1.0, float("inf")], x)),
    "sqrt": lambda b, x: b.sqrt(x * x),
    "sigmoid": lambda b, x: b.sigmoid(30.0 * x),
    "softmax": lambda b, x: b.softmax(200.0 * x),
    "concatenate": lambda b, x: b.concatenate([x, x[:1]]),
    "stack": lambda b, x: b.stack([x, x]),
    "while_loop": lambda b, x: b.while_loop(
        lambda s: s[0] < 4,
        lambda s: (s[0] + 1, {"y": 2.0 * s[1]["y"]}),
        (b.integer(0, x), {"y": x}),
    )[1]["y"],
    "cond": lambda b, x: b.cond(x[0, 0] > 9.0, lambda s: s, lambda s: -s, x),
    "select": lambda b, x: b.select(x[0, 0] > 9.0, {"a": (x,)}, {"a": (2.0 * x,)})["a"][0],
    "map": lambda b, x: b.map(lambda row: row.sum() * row, x),
    "eigh": lambda b, x: b.eigh(b.asarray(SYMMETRIC, x))[0],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_match_numpy_in_value_shape_and_dtype(name):
    actual = quick_jit(lambda x: OPERATIONS[name](JAX, x))(jnp.asarray(X))
    expected = np.asarray(OPERATIONS[name](NUMPY, X))
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6)


def test_eigenvectors_rebuild_the_matrix():
    values, vectors = JAX.eigh(jnp.asarray(SYMMETRIC))
    np.testing.assert_allclose(vectors * values @ vectors.T, SYMMETRIC, atol=1e-5)


def test_a_loop_keeps_the_dtypes_of_its_state():
    """Also where the body widens them: 64-bit mode, a NumPy constant, a Python number."""
    start = (jnp.float32(1.0), jnp.int32(0))
    value, count = JAX.while_loop(
        lambda s: s[1] < 3, lambda s: (s[0] * np.float64(2.0), s[1] + np.int64(1)), start
    )
    assert (value.dtype, count.dtype) == (jnp.float32, jnp.int32)
    assert (float(value), int(count)) == (8.0, 3)


def test_a_schedule_gives_an_integer():
    assert int(JAX.integer(jnp.float32(7.9), X)) == 7
    assert JAX.integer(jnp.float32(7.9), X).dtype == jnp.int32


def test_cond_computes_one_branch_only():
    jaxpr = jax.make_jaxpr(lambda x: JAX.cond(x > 0, jnp.sin, jnp.cos, x))(1.0)
    assert [equation.primitive.name for equation in jaxpr.eqns].count("cond") == 1


@pytest.mark.parametrize("size", [1, 2, 4, 5, 9])
def test_map_in_batches_gives_the_same_rows(size):
    backend = JaxBackend(map_batch_size=size)
    actual = quick_jit(lambda x: backend.map(lambda row: row.sum() * row, x))(jnp.asarray(X))
    np.testing.assert_allclose(actual, X.sum(1, keepdims=True) * X, rtol=1e-6)


def test_batch_size_of_map_is_checked():
    with pytest.raises(ValueError, match="map_batch_size must be an integer of at least 1, got 0"):
        JaxBackend(map_batch_size=0)
