"""Multilayer perceptron in JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from workloads_extra.jax_workload import JaxWorkload
from workloads_extra.mlp import layer_name, mlp_specs
from workloads_extra.parameters import Specs


class MlpJaxWorkload(JaxWorkload):
    """Mixin for workloads that state ``widths``: tanh between the layers, linear at the end."""

    widths: tuple[int, ...]

    def _parameter_specs(self) -> Specs:
        """A kernel and a bias per layer."""
        return mlp_specs(self.widths)

    def _apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """[batch, widths[0]] to [batch, widths[-1]]."""
        hidden = inputs
        last = len(self.widths) - 2
        for index in range(last + 1):
            layer = params[layer_name(index)]
            hidden = hidden @ layer["kernel"] + layer["bias"]
            hidden = hidden if index == last else jnp.tanh(hidden)
        return hidden
