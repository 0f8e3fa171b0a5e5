"""The convolutional digits classifier in JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from workloads_extra.digits_conv.workload import (
    IMAGE_SIDE,
    KERNEL_SIDE,
    LAYERS,
    NORM_EPSILON,
    NORM_MOMENTUM,
    BaseDigitsConvWorkload,
    conv_name,
    norm_name,
)
from workloads_extra.jax_workload import StatefulJaxWorkload

Statistics = dict[str, jax.Array]
"""Running ``mean`` and ``var`` of every channel, [channels]."""


class DigitsConvWorkload(StatefulJaxWorkload, BaseDigitsConvWorkload):
    """Classify digits with a convolutional network.

    The model state is ``{"batch_stats": {normalisation: statistics}}``, as flax has it.
    """

    def _initial_state(self) -> dict[str, dict[str, Statistics]]:
        """Mean zero, variance one."""
        return {
            "batch_stats": {
                norm_name(index): {
                    "mean": jnp.zeros(layer.outputs, jnp.float32),
                    "var": jnp.ones(layer.outputs, jnp.float32),
                }
                for index, layer in enumerate(LAYERS)
            }
        }

    def _forward(
        self, params: Any, model_state: Any, inputs: jax.Array, training: bool
    ) -> tuple[jax.Array, Any]:
        """[batch, 64] pixels to [batch, 10], and the state after them."""
        hidden = inputs.reshape(-1, IMAGE_SIDE, IMAGE_SIDE, 1)
        statistics = {}
        for index, layer in enumerate(LAYERS):
            norm = norm_name(index)
            hidden = _convolve(params[conv_name(index)], hidden, layer.stride)
            hidden, statistics[norm] = _normalise(
                params[norm], model_state["batch_stats"][norm], hidden, training
            )
            hidden = jax.nn.relu(hidden)
        output = params["output"]
        outputs = hidden.mean(axis=(1, 2)) @ output["kernel"] + output["bias"]
        return outputs, {"batch_stats": statistics}


def _convolve(params: Any, hidden: jax.Array, stride: int) -> jax.Array:
    """Convolution with a border of zeros, [batch, height, width, channels] to the same with others."""
    border = KERNEL_SIDE // 2
    return jax.lax.conv_general_dilated(
        hidden,
        params["kernel"],
        window_strides=(stride, stride),
        padding=((border, border), (border, border)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _normalise(
    params: Any, running: Statistics, hidden: jax.Array, training: bool
) -> tuple[jax.Array, Statistics]:
    """Batch normalisation of every channel.

    Args:
        params: ``scale`` and ``bias``.
        running: statistics that hold in evaluation.
        hidden: [batch, height, width, channels].
        training: whether those of the batch hold instead.

    Returns:
        The same shape, and the running statistics after the batch.
    """
    used = running
    if training:
        mean = hidden.mean(axis=(0, 1, 2))
        used = {"mean": mean, "var": ((hidden - mean) ** 2).mean(axis=(0, 1, 2))}
        count = hidden.size // hidden.shape[-1]
        unbiased = {"mean": mean, "var": used["var"] * count / (count - 1)}
        running = {
            name: (1 - NORM_MOMENTUM) * running[name] + NORM_MOMENTUM * unbiased[name]
            for name in running
        }
    factor = params["scale"] * jax.lax.rsqrt(used["var"] + NORM_EPSILON)
    outputs = (hidden - used["mean"]) * factor + params["bias"]
    return outputs, jax.lax.stop_gradient(running)
