"""Training loops around the optax transformation."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

import llqr.jax
from llqr.config import LLQRConfig, configure
from tests.jax import networks
from tests.jax.networks import Case, quick_jit

STEPS = {"steps": 3, "learning_rate": 0.05}


def quick_config(**settings: Any) -> LLQRConfig:
    return configure(
        **{"solver_options": STEPS, "update_interval": 2, "ema_decay": 0.5, **settings}
    )


def make(case: Case, base: Any, config: LLQRConfig, **settings: Any) -> Any:
    return llqr.jax.llqr(
        base,
        outputs_fn=case.outputs_fn,
        loss_fn=case.loss_fn,
        weights_fn=case.weights_fn,
        config=config,
        **settings,
    )


def loss_on(case: Case, params: Any, batch: Any) -> jax.Array:
    return networks.mean_loss(case._replace(batch=batch), params)


def training_step(case: Case, optimizer: Any, traces: list[int] | None = None) -> Any:
    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        if traces is not None:
            traces.append(1)
        gradient = jax.grad(lambda p: loss_on(case, p, batch))(params)
        updates, state = optimizer.update(gradient, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def batches_of(case: Case, count: int) -> list[Any]:
    """Batches of one shape whose inputs differ."""
    return [(case.batch[0] * (1.0 + 0.1 * i), *case.batch[1:]) for i in range(count)]


def train(case: Case, optimizer: Any, batches: list[Any]) -> tuple[Any, Any]:
    step, params, state = (
        quick_jit(training_step(case, optimizer)),
        case.params,
        optimizer.init(case.params),
    )
    for batch in batches:
        params, state = step(params, state, batch)
    return params, state


def assert_trees_equal(actual: Any, expected: Any, tolerance: float = 0.0) -> None:
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
