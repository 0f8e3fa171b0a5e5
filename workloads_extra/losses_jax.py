"""Losses of single examples or tokens in JAX, by loss type."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from workloads_extra.spec import LossType


def _softmax_cross_entropy(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy with integer classes, [..., classes] and [...] to [...]."""
    classes = outputs.shape[-1]
    probabilities = (1.0 - smoothing) * jax.nn.one_hot(targets, classes) + smoothing / classes
    return -jnp.sum(probabilities * jax.nn.log_softmax(outputs), axis=-1)


def _sigmoid_cross_entropy(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy with probabilities, summed over the outputs of an example."""
    probabilities = (1.0 - smoothing) * targets + 0.5 * smoothing
    losses = jax.nn.softplus(outputs) - probabilities * outputs
    return jnp.sum(losses, axis=-1)


def _squared_error(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Squared error, summed over the outputs of an example."""
    del smoothing
    return jnp.sum((outputs - targets) ** 2, axis=-1)


def _absolute_error(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Absolute error, summed over the outputs of an example."""
    del smoothing
    return jnp.sum(jnp.abs(outputs - targets), axis=-1)


LOSSES: dict[LossType, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
    LossType.SOFTMAX_CROSS_ENTROPY: _softmax_cross_entropy,
    LossType.SIGMOID_CROSS_ENTROPY: _sigmoid_cross_entropy,
    LossType.MEAN_SQUARED_ERROR: _squared_error,
    LossType.MEAN_ABSOLUTE_ERROR: _absolute_error,
}
"""(outputs, targets, label smoothing) ↦ losses, unweighted."""
