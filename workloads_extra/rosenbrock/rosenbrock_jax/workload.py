"""The functions of the plane in JAX."""

from typing import Any

import jax
import jax.numpy as jnp

from workloads_extra.jax_workload import JaxWorkload
from workloads_extra.rosenbrock.workload import (
    BaseAckleyWorkload,
    BaseGoldsteinPriceWorkload,
    BaseRosenbrockTwoLayersWorkload,
    BaseRosenbrockWorkload,
)


class _PlaneJaxWorkload(JaxWorkload):
    """Evaluates ``function`` at the parameters."""

    def _apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """[batch, constants] to [batch, outputs]."""
        return self.function(jnp, inputs, [params[layer]["u"] for layer in self.start])


class RosenbrockWorkload(_PlaneJaxWorkload, BaseRosenbrockWorkload):
    """Rosenbrock as one layer."""


class RosenbrockTwoLayersWorkload(_PlaneJaxWorkload, BaseRosenbrockTwoLayersWorkload):
    """Rosenbrock as two layers."""


class AckleyWorkload(_PlaneJaxWorkload, BaseAckleyWorkload):
    """Ackley's function."""


class GoldsteinPriceWorkload(_PlaneJaxWorkload, BaseGoldsteinPriceWorkload):
    """The Goldstein–Price polynomial."""
