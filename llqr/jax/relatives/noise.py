"""Noise-adaptive layerwise rates around any optax transformation, LLQR among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from llqr import tensors
from llqr.jax.backend import JaxBackend
from llqr.jax.naming import Naming, like_tree, named_leaves
from llqr.relatives.noise import LayerNoise, NoiseAdaptiveRates
from llqr.structures.base import layer_of


class NoiseAdaptiveState(NamedTuple):
    """State of :func:`noise_adaptive`: a pytree of arrays only.

    Attributes:
        noise: estimates and the previous gradient.
        base: the base optimizer's state.
        skipped: steps skipped because the gradient was not finite, 0-d int32.
    """

    noise: Any
    base: Any
    skipped: Array


def noise_adaptive(
    base_optimizer: optax.GradientTransformation,
    *,
    rates: NoiseAdaptiveRates | None = None,
    layers: Callable[[str], str] = layer_of,
) -> optax.GradientTransformationExtraArgs:
    """Shorten a base optimizer's update in layers with noisy gradients; see :mod:`llqr.relatives.noise`.

    Args:
        base_optimizer: any optax transformation that ends in an update, e.g. :func:`llqr.jax.llqr`.
        rates: how noise sets the rates.
        layers: parameter name ↦ layer; for LLQR's blocks :func:`llqr.relatives.noise.layers_of_blocks`.

    Returns:
        The transformation; its state is a :class:`NoiseAdaptiveState`. Further keyword arguments of
        ``update`` reach the base optimizer.
    """
    base, backend = optax.with_extra_args_support(base_optimizer), JaxBackend()
    noise = LayerNoise(rates=rates or NoiseAdaptiveRates(), layers=layers)

    def init(params: Any) -> NoiseAdaptiveState:
        like = Naming.of(params).flatten(params, "params")
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), noise.init(backend, like))
        return NoiseAdaptiveState(state, base.init(params), jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: NoiseAdaptiveState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, NoiseAdaptiveState]:
        gradient = Naming.of(updates).flatten(updates)
        finite = tensors.all_finite(backend, gradient)
        relative, estimates = noise.update(backend, state.noise, gradient)
        result, inner = base.update(updates, state.base, params, **extra_args)
        result = like_tree(
            {name: relative[name] * leaf for name, leaf in named_leaves(result).items()}, result
        )
        new = NoiseAdaptiveState(estimates, inner, state.skipped)
        old = NoiseAdaptiveState(state.noise, state.base, state.skipped + 1)
        zeros = jax.tree.map(jnp.zeros_like, result)
        return backend.select(finite, (result, new), (zeros, old))

    return optax.GradientTransformationExtraArgs(init, update)
