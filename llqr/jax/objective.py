"""What is differentiated: a model, its loss and its events' weights, as functions of named parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from llqr.backend import Tensors
from llqr.curvature import OUTPUT, AbstractCurvature
from llqr.jax.backend import JaxBackend
from llqr.jax.naming import Naming

OutputsFn = Callable[[Any, Any], Any]
"""(params, batch) ↦ outputs, or (outputs, {name: intermediate})."""

LossFn = Callable[[Any, Any], Any]
"""(outputs, batch) ↦ mean loss, or (summed loss, normaliser)."""

WeightsFn = Callable[[Any], Any]
"""batch ↦ None, weights of the events of the output, or {name: weights}."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is differentiated: outputs and loss as functions of named parameters on a chunk.

    Attributes:
        outputs_fn: see :data:`OutputsFn`.
        loss_fn: see :data:`LossFn`.
        weights_fn: see :data:`WeightsFn`.
        naming: the parameters' names and pytree.
        curvature: decides what a mean loss is divided by.
        backend: array operations.
    """

    outputs_fn: OutputsFn
    loss_fn: LossFn
    weights_fn: WeightsFn | None
    naming: Naming
    curvature: AbstractCurvature
    backend: JaxBackend

    def outputs(self, parameters: Tensors, chunk: Any) -> dict[str, Array]:
        """Return the network's output and intermediates by name, in the network's dtype.

        Raises:
            TypeError: if the model function returns neither form of outputs.
            ValueError: if an intermediate layer takes the output's name.
        """
        result = self.outputs_fn(self.naming.unflatten(parameters), chunk)
        output, intermediate = result if _is_pair(result) else (result, {})
        if not hasattr(output, "shape") or not isinstance(intermediate, Mapping):
            raise TypeError(
                "outputs_fn must return an array or (array, {name: array}), got "
                f"{jax.tree.structure(result)}; name intermediate layers in a dict"
            )
        if OUTPUT in intermediate:
            raise ValueError(
                f"intermediate layers must not be named {OUTPUT!r}, the name of the network's output, got "
                f"{sorted(intermediate)}; rename that layer"
            )
        return {OUTPUT: output, **intermediate}

    def weights(self, chunk: Any) -> dict[str, Array]:
        """Return the weights of the events by output name."""
        given = None if self.weights_fn is None else self.weights_fn(chunk)
        named = given if isinstance(given, Mapping) else {OUTPUT: given}
        return {name: self._wide(value) for name, value in named.items() if value is not None}

    def summed_loss(self, output: Array, chunk: Any) -> tuple[Array, Array]:
        """Return the summed loss of a chunk and the normaliser that makes it a mean.

        Raises:
            ValueError: if the loss is not scalar.
        """
        loss = self.loss_fn(output, chunk)
        if _is_pair(loss):
            total, normaliser = loss
            return _scalar(self._wide(total)), _scalar(self._wide(normaliser))
        loss = _scalar(self._wide(loss))
        normaliser = self._normaliser(output, chunk)
        return loss * normaliser, normaliser

    def loss_of(self, parameters: Tensors, chunk: Any) -> tuple[Array, tuple[Array, Array]]:
        """Return the summed loss, and (output, normaliser) as auxiliary values."""
        output = self.outputs(parameters, chunk)[OUTPUT]
        loss, normaliser = self.summed_loss(output, chunk)
        return loss, (output, normaliser)

    def wide(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Return arrays in the factor dtype."""
        return {name: self._wide(value) for name, value in values.items()}

    def _wide(self, value: Any) -> Array:
        return jnp.asarray(value, self.naming.factor_dtype)

    def _normaliser(self, output: Array, chunk: Any) -> Array:
        metric = self.curvature.output_metric
        if metric is None:
            return self._wide(output.shape[0] if output.shape else 1)
        return metric.normaliser(self.backend, self._wide(output), self.weights(chunk).get(OUTPUT))


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _scalar(loss: Array) -> Array:
    if loss.shape != ():
        raise ValueError(
            f"loss_fn must return a scalar mean loss or (summed loss, normaliser), got shape {loss.shape}; "
            "reduce the loss with .mean(), or return (losses.sum(), count)"
        )
    return loss
