"""Statistics of a training batch in JAX, one pass per half (:mod:`llqr.algoperf.running_statistics`).

A model state tells no momentum, but a pass in training mode, which normalises by the batch, maps every array
S of it to a S + (1 − a) B. What it makes of S = 0 and of S = 1 gives a and B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from llqr.algoperf.batches import Batch, example_count, halves, is_sliceable
from llqr.algoperf.likelihoods import specification
from llqr.algoperf.running_statistics import MIN_EXAMPLES, at_present
from llqr.jax.backend import JaxBackend

Forward = Callable[[Any, Batch], Any]
"""(model state, batch) ↦ model state after a pass in training mode."""


def training_pass(workload: Any, params: Any) -> Forward:
    """Return a workload's pass in training mode, without dropout."""
    mode = specification(workload).ForwardPassMode.TRAIN

    def forward(state: Any, batch: Batch) -> Any:
        # Some modules want a key to be there also where nothing is drawn.
        key = jax.random.PRNGKey(0)
        return workload.model_fn(
            params, batch, state, mode, key, update_batch_norm=True, dropout_rate=0.0
        )[1]

    return forward


def brought_to_present(state: Any, forward: Forward, batch: Batch, shards: int = 1) -> Any:
    """Return the model state with the statistics of the parameters as they are.

    Args:
        state: model state after the last step. Arrays that follow no batch stay, and everything does if a
            pass returns a state of another structure.
        forward: such as :func:`training_pass`.
        batch: the last training batch; one that cannot be halved changes nothing.
        shards: devices its leading axis is split over.
    """
    examples = example_count(batch)
    if examples % shards:
        shards = 1
    if examples < MIN_EXAMPLES * shards or not is_sliceable(batch, examples):
        return state
    found = [
        _after_zeros_and_ones(state, forward, half) for half in halves(batch, examples, shards)
    ]
    if any(jax.tree.structure(half) != jax.tree.structure(state) for half in found):
        return state
    return jax.tree.map(_at_present, state, *found)


def _after_zeros_and_ones(state: Any, forward: Forward, batch: Batch) -> Any:
    """Return what a pass makes of S = 0 and of S = 1, stacked."""

    def after(value: Array) -> Any:
        return forward(jax.tree.map(lambda leaf: jnp.full_like(leaf, value), state), batch)

    # What does not depend on S, that is nearly all, is computed once.
    return jax.vmap(after)(jnp.array([0.0, 1.0]))


def _at_present(running: Array, *halves: Array) -> Array:
    if not jnp.issubdtype(running.dtype, jnp.floating):
        return running
    if any(half.shape[1:] != running.shape for half in halves):
        return running
    kept = [ones - zeros for zeros, ones in halves]  # a
    follow = jnp.all(jnp.array([(a >= 0.0).all() & (a < 1.0).all() for a in kept]))
    of_halves = [
        half[0] / jnp.where(follow, 1.0 - a, 1.0) for half, a in zip(halves, kept, strict=True)
    ]
    first, second = of_halves
    return jnp.where(follow, at_present(JaxBackend(), running, (first, second)), running)
