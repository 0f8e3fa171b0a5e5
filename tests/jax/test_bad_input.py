"""What the optax transformation refuses, and how it says so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
import pytest

import llqr.jax
from llqr import structures
from llqr.multiplier import AdaptiveMultiplier
from tests.jax import networks
from tests.jax.training import (
    make,
    quick_config,
)


def test_bad_arguments_are_named_at_construction():
    case = networks.mlp()
    with pytest.raises(TypeError, match="config must be an LLQRConfig, got 'diagonal'"):
        make(case, optax.sgd(0.1), "diagonal")
    with pytest.raises(TypeError, match="base_optimizer must be an optax transformation"):
        make(case, 0.1, quick_config())
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        make(case._replace(loss_fn=None), optax.sgd(0.1), quick_config())
    span = quick_config(structure="span", inner_solver="direct", solver_options={})
    with pytest.raises(ValueError, match=r"\['update'\]; set apply_to=\"update\""):
        make(case, optax.sgd(0.1), span)
    by_name = quick_config(structure=lambda name, shape: structures.Span())
    with pytest.raises(ValueError, match=r"\['update'\]; set apply_to=\"update\""):
        make(case, optax.sgd(0.1), by_name).init(case.params)
    with pytest.raises(ValueError, match="empty pytree"):
        make(case, optax.sgd(0.1), quick_config()).init({})
    with pytest.raises(TypeError, match="got dtype int32 for 'count'"):
        make(case, optax.sgd(0.1), quick_config()).init({"count": jnp.zeros(3, jnp.int32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": None}, "batch must be given to update"),
        ({"params": None}, "params must be given to update"),
        ({"batch": (jnp.zeros((0, 3)), jnp.zeros(0, int))}, "at least one example, got 0"),
        ({"updates": {"first": {"kernel": jnp.zeros((3, 4))}}}, "miss .'first/bias'"),
        (
            {"updates": jax.tree.map(jnp.sum, networks.mlp().params)},
            r"shapes of params, got \(\) instead",
        ),
    ],
)
def test_bad_arguments_are_named_at_update(change, message):
    case = networks.mlp()
    optimizer = make(case, optax.sgd(0.1), quick_config())
    state = optimizer.init(case.params)
    given = {"updates": case.params, "params": case.params, "batch": case.batch, **change}
    with pytest.raises(ValueError, match=message):
        optimizer.update(given["updates"], state, given["params"], batch=given["batch"])


def test_a_loss_that_is_not_scalar_is_named():
    case = networks.mlp()
    broken = case._replace(loss_fn=lambda outputs, batch: outputs.sum(-1))
    optimizer = make(broken, optax.sgd(0.1), quick_config())
    with pytest.raises(ValueError, match=r"loss_fn must return a scalar .* got shape \(7,\)"):
        optimizer.update(case.params, optimizer.init(case.params), case.params, batch=case.batch)


def test_a_state_of_another_configuration_is_refused():
    case, base = networks.mlp(), optax.sgd(0.1)
    state = make(case, base, quick_config()).init(case.params)
    other = quick_config(structure="kronecker")
    optimizer = make(case, base, other)
    with pytest.raises(ValueError, match=r"another configuration: block 'first/kernel' must have"):
        optimizer.update(case.params, state, case.params, batch=case.batch)
    with pytest.raises(ValueError, match=r"another configuration: block 'first/kernel' must have"):
        llqr.jax.check_state((optax.EmptyState(), state), case.params, other)
    layers = quick_config(structure=structures.Scalar())
    with pytest.raises(ValueError, match=r"has no block 'first' \(scalar"):
        llqr.jax.check_state(state, case.params, layers)
    part = {"first": case.params["first"]}
    with pytest.raises(ValueError, match="its block 'second/bias' is none of"):
        llqr.jax.check_state(state, part, quick_config())
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state)
    with pytest.raises(ValueError, match="must be float64, got float32"):
        llqr.jax.check_state(half, case.params, quick_config())
    llqr.jax.check_state(state, case.params, quick_config())
    keeping = quick_config(apply_to="update", multiplier=AdaptiveMultiplier())
    with pytest.raises(ValueError, match=r"its multiplier must keep 4 parameters .*got \{\}"):
        llqr.jax.check_state(state, case.params, keeping)
    llqr.jax.check_state(make(case, base, keeping).init(case.params), case.params, keeping)
