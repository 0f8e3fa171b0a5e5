"""Names of parameters in every kind of pytree, and the way back."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from llqr.jax import named_leaves
from llqr.jax.naming import Naming, has_masked, like_tree, unmask


class Pair(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)


def test_names_join_the_path():
    tree = {"b": {"kernel": 1.0, "3": 2.0}, "a": [4.0, (5.0, 6.0)]}
    assert named_leaves(tree) == {
        "a/0": 4.0,
        "a/1/0": 5.0,
        "a/1/1": 6.0,
        "b/3": 2.0,
        "b/kernel": 1.0,
    }
    assert named_leaves(7.0) == {"parameter": 7.0}


def test_names_of_flax_modules():
    params = linen.Dense(3).init(jax.random.key(0), jnp.zeros((1, 2)))
    assert set(named_leaves(params)) == {"params/kernel", "params/bias"}
    state = nnx.state(Pair(nnx.Rngs(0)), nnx.Param)
    assert set(named_leaves(state)) == {"first/kernel", "first/bias", "norm/scale", "norm/bias"}


def test_a_parameter_called_value_keeps_its_name():
    assert named_leaves({"value": 1.0, "a": {"value": 2.0}}) == {"value": 1.0, "a/value": 2.0}


def test_equal_names_are_refused():
    with pytest.raises(ValueError, match="parameter names must differ, got 'a/b' twice"):
        named_leaves({"a": {"b": 1.0}, "a/b": 2.0})


def test_there_and_back_keeps_dtypes():
    state = nnx.state(Pair(nnx.Rngs(0)), nnx.Param)
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state)
    naming = Naming.of(state)
    flat = naming.flatten(state)
    assert {leaf.dtype for leaf in flat.values()} == {jnp.dtype("float32")}
    for back in (naming.unflatten(flat), like_tree(flat, state)):
        assert jax.tree.structure(back) == jax.tree.structure(state)
        for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_one_factor_dtype_for_mixed_parameters():
    mixed = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(2, jnp.float64)}
    assert Naming.of(mixed).factor_dtype == jnp.float64
    assert Naming.of({"a": mixed["a"]}).factor_dtype == jnp.float32


def test_masked_leaves_come_back():
    full = {"a": {"x": 1.0, "y": 2.0}, "b": 3.0}
    for hidden in (
        {"a": optax.MaskedNode(), "b": 5.0},
        {"a": {"x": optax.MaskedNode(), "y": 4.0}, "b": 5.0},
    ):
        assert has_masked(hidden)
        assert unmask(hidden, full)["b"] == 5.0
        assert unmask(hidden, full)["a"]["x"] == 1.0
    assert not has_masked(full)
