"""Decoder-only transformer in JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from workloads_extra.jax_workload import JaxWorkload
from workloads_extra.parameters import Specs
from workloads_extra.transformer import (
    NORM_EPSILON,
    Sequences,
    TransformerSize,
    block_name,
    transformer_specs,
)


class TransformerJaxWorkload(JaxWorkload):
    """Mixin for workloads that state ``size`` and ``sequences``."""

    size: TransformerSize
    sequences: Sequences

    def _parameter_specs(self) -> Specs:
        """Embeddings, blocks and output."""
        return transformer_specs(self.size, self.sequences)

    def _apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """[batch, length] tokens to [batch, classes] or [batch, length, classes]."""
        tokens = params["token_embedding"]["embedding"][inputs]
        hidden = tokens + params["position_embedding"]["embedding"]
        for index in range(self.size.layers):
            block = params[block_name(index)]
            normalised = _normalise(block["attention_norm"], hidden)
            hidden = hidden + _attend(block["attention"], normalised, self.size.heads)
            hidden = hidden + _perceptron(block["mlp"], _normalise(block["mlp_norm"], hidden))
        read = hidden[:, -1] if self.sequences.last_only else hidden
        return _normalise(params["final_norm"], read) @ params["output"]["kernel"]


def _normalise(params: Any, hidden: jax.Array) -> jax.Array:
    """Layer normalisation with a scale and no shift, over the last axis."""
    centred = hidden - hidden.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + NORM_EPSILON) * params["scale"]


def _attend(params: Any, hidden: jax.Array, heads: int) -> jax.Array:
    """Causal attention, [batch, length, width] to the same shape."""
    batch, length, width = hidden.shape

    def project(name: str) -> jax.Array:
        return (hidden @ params[name]["kernel"]).reshape(batch, length, heads, width // heads)

    query, key, value = project("query"), project("key"), project("value")
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (width // heads) ** 0.5
    causal = jnp.tril(jnp.ones((length, length), dtype=bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, width)
    return mixed @ params["out"]["kernel"]


def _perceptron(params: Any, hidden: jax.Array) -> jax.Array:
    """Two linear layers with a ReLU between them."""
    first, second = params["dense_0"], params["dense_1"]
    return jax.nn.relu(hidden @ first["kernel"] + first["bias"]) @ second["kernel"] + second["bias"]
