"""flax.linen and flax.nnx models: trained through their own loops, against the plain pytree."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState

import llqr.jax
from llqr.config import configure
from tests.jax import networks
from tests.jax.networks import quick_jit

CONFIG = configure(
    structure="kronecker",
    update_interval=2,
    ema_decay=0.5,
    solver_options={"steps": 3, "learning_rate": 0.05},
)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.tanh(linen.Dense(4, name="first", param_dtype=x.dtype)(x))
        return linen.Dense(3, name="second", param_dtype=x.dtype)(x)


class Nnx(nnx.Module):
    def __init__(self, params):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(3, 4, rngs=rngs, param_dtype=jnp.float64)
        self.second = nnx.Linear(4, 3, rngs=rngs, param_dtype=jnp.float64)
        self.calls = nnx.BatchStat(jnp.zeros((), jnp.int32))  # state that is no parameter
        nnx.update(self, params)

    def __call__(self, x):
        return self.second(jnp.tanh(self.first(x)))


@pytest.fixture(scope="module")
def expected():
    """The plain pytree after three steps."""
    case = networks.mlp()
    optimizer = llqr.jax.llqr(
        optax.adam(0.05), outputs_fn=case.outputs_fn, loss_fn=case.loss_fn, config=CONFIG
    )
    params, state = case.params, optimizer.init(case.params)

    @quick_jit
    def step(params, state):
        gradient = jax.grad(lambda p: networks.mean_loss(case, p))(params)
        updates, state = optimizer.update(gradient, state, params, batch=case.batch)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    assert int(state.preconditioner.fits) == 2
    return llqr.jax.named_leaves(params)


def assert_named_equal(params, expected):
    actual = llqr.jax.named_leaves(params)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-12, atol=1e-14)


def test_linen_model_in_a_train_state(expected):
    case, model = networks.mlp(), Linen()

    def outputs(params, batch):
        return model.apply({"params": params}, batch[0])

    optimizer = llqr.jax.llqr(
        optax.adam(0.05), outputs_fn=outputs, loss_fn=case.loss_fn, config=CONFIG
    )
    state = TrainState.create(apply_fn=model.apply, params=case.params, tx=optimizer)

    @quick_jit
    def step(state):
        gradient = jax.grad(lambda p: case.loss_fn(outputs(p, case.batch), case.batch))(
            state.params
        )
        updates, inner = state.tx.update(gradient, state.opt_state, state.params, batch=case.batch)
        return state.replace(
            params=optax.apply_updates(state.params, updates), opt_state=inner, step=state.step + 1
        )

    for _ in range(3):
        state = step(state)
    assert_named_equal(state.params, expected)


def nnx_optimizer(case, model):
    graph, _, rest = nnx.split(model, nnx.Param, ...)

    def outputs(params, batch):
        return nnx.merge(graph, params, rest)(batch[0])

    return llqr.jax.llqr(optax.adam(0.05), outputs_fn=outputs, loss_fn=case.loss_fn, config=CONFIG)


def test_nnx_state_by_hand(expected):
    case = networks.mlp()
    model = Nnx(case.params)
    optimizer = nnx_optimizer(case, model)
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    state = optimizer.init(params)

    @quick_jit
    def step(params, state):
        def loss(params):
            return case.loss_fn(nnx.merge(graph, params, rest)(case.batch[0]), case.batch)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params, batch=case.batch)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    assert_named_equal(params, expected)
    assert int(state.preconditioner.fits) == 2


def test_nnx_optimizer_under_nnx_jit(expected):
    case = networks.mlp()
    model = Nnx(case.params)
    optimizer = nnx.Optimizer(model, nnx_optimizer(case, model), wrt=nnx.Param)
    takes_model = "model" in inspect.signature(optimizer.update).parameters

    @nnx.jit
    def step(model, optimizer, batch):
        gradient = nnx.grad(lambda model: case.loss_fn(model(batch[0]), batch))(model)
        before = (model, gradient) if takes_model else (gradient,)
        optimizer.update(*before, batch=batch)

    for _ in range(3):
        step(model, optimizer, case.batch)
    assert_named_equal(nnx.state(model, nnx.Param), expected)
