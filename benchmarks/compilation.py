"""What compiling a training step costs in JAX, by the number of the network's tensors.

A step that holds refreshes is a large program. Its compile time must not grow faster than the network: the
processor seconds of the base optimizer's own step stand beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import llqr.jax
from llqr.presets import shaped, step_sizes

DEPTHS = (12, 48)
"""Hidden layers of the networks."""
WIDTH, CLASSES, BATCH = 64, 10, 128
METHODS = ("adam", "step sizes", "kronecker", "ekfac")


def _outputs(params: dict[str, Any], batch: Any) -> jax.Array:
    x = batch[0]
    for layer in list(params.values())[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params["readout"]["kernel"] + params["readout"]["bias"]


def _loss(outputs: jax.Array, batch: Any) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch[1]).mean()


def _parameters(depth: int) -> dict[str, Any]:
    def layer(index: int, width: int) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(0), index)
        return {"kernel": 0.1 * jax.random.normal(key, (WIDTH, width)), "bias": jnp.zeros(width)}

    hidden = {f"layer{index:03}": layer(index, WIDTH) for index in range(depth)}
    return {**hidden, "readout": layer(depth, CLASSES)}


def _step(method: str) -> tuple[Callable, Callable]:
    """Return the optimizer's ``init`` and a training step (params, state, batch) ↦ (params, state)."""
    base: Any = optax.adam(1e-3, b2=0.99)
    if method != "adam":
        span = method == "step sizes"
        config = step_sizes("categorical", total_steps=1000) if span else shaped(method)
        base = llqr.jax.llqr(base, outputs_fn=_outputs, loss_fn=_loss, config=config)

    def step(params: Any, state: Any, batch: Any) -> tuple[Any, Any]:
        gradient = jax.grad(lambda p: _loss(_outputs(p, batch), batch))(params)
        extra = {} if method == "adam" else {"batch": batch}
        updates, state = base.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return base.init, step


def compilation(depth: int, methods: tuple[str, ...] = METHODS) -> list[dict[str, Any]]:
    """Return one row per method: processor seconds until a step can run, and the size of its program."""
    params = _parameters(depth)
    batch = (jnp.ones((BATCH, WIDTH)), jnp.arange(BATCH) % CLASSES)
    rows = []
    for method in methods:
        init, step = _step(method)
        state = init(params)
        start = time.process_time()
        traced = jax.jit(step).lower(params, state, batch)
        between = time.process_time()
        compiled = traced.compile()
        rows.append(
            {
                "tensors": len(jax.tree.leaves(params)),
                "step": method,
                "tracing [s]": between - start,
                "compilation [s]": time.process_time() - between,
                "kernels": compiled.as_text().count(" fusion("),
            }
        )
    return rows
