"""One chunk of a batch, linearised: the linear maps every product of a fit replays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from llqr.backend import Tensors
from llqr.curvature import OUTPUT, LossHessian
from llqr.jax.objective import Objective


class ForwardLinearisation:
    """One chunk with the outputs linearised: Gauss-Newton and Fisher products reuse the linear map.

    Args:
        objective: what is differentiated.
        parameters: θ, named, in the factor dtype.
        chunk: examples.
    """

    def __init__(self, objective: Objective, parameters: Tensors, chunk: Any) -> None:
        self._objective, self._parameters, self._chunk = objective, parameters, chunk
        self._native, self._linear = jax.linearize(
            lambda values: objective.outputs(values, chunk), parameters
        )
        self._transpose = jax.linear_transpose(self._linear, parameters)
        self.outputs = objective.wide(self._native)
        self.weights = objective.weights(chunk)
        self.loss, self._loss_pullback, self.normaliser = jax.vjp(
            lambda output: objective.summed_loss(output, chunk), self._native[OUTPUT], has_aux=True
        )
        self._output_hessian = None
        if isinstance(getattr(objective.curvature, "metric", None), LossHessian):
            self._output_hessian = self._linearised_loss_gradient()

    def gradient(self) -> Tensors:
        """Return the gradient of the summed loss."""
        (cotangent,) = self._loss_pullback(jnp.ones_like(self.loss))
        return self.vjp({OUTPUT: cotangent})

    def jvp(self, direction: Tensors) -> dict[str, Array]:
        """Return J_k v for every named output; v is zero where it names no parameter."""
        full = {
            name: direction[name] if name in direction else jnp.zeros_like(value)
            for name, value in self._parameters.items()
        }
        return self._objective.wide(self._linear(full))

    def vjp(self, cotangents: dict[str, Array]) -> Tensors:
        """Return Σ_k J_kᵀ u_k; outputs without a cotangent count as zero."""
        full = {
            name: cotangents[name].astype(value.dtype)
            if name in cotangents
            else jnp.zeros_like(value)
            for name, value in self._native.items()
        }
        return self._transpose(full)[0]

    def hessian_product(self, direction: Tensors) -> Tensors:
        """Return ∂²(summed loss) v, forward over reverse."""
        return HessianLinearisation(self._objective, self._parameters, self._chunk).hessian_product(
            direction
        )

    def output_hessian_product(self, tangent: Array) -> Array:
        """Return ∂²(summed loss)/∂x_N² u."""
        linear = self._output_hessian or self._linearised_loss_gradient()
        return self._objective.wide({OUTPUT: linear(tangent.astype(self._native[OUTPUT].dtype))})[
            OUTPUT
        ]

    def _linearised_loss_gradient(self) -> Callable[[Array], Array]:
        loss = jax.grad(lambda output: self._objective.summed_loss(output, self._chunk)[0])
        return jax.linearize(loss, self._native[OUTPUT])[1]


class HessianLinearisation:
    """One chunk with the loss's gradient linearised: Newton products reuse the linear map.

    The outputs are linearised only where a caller asks for more than Hessian products.

    Args:
        objective: what is differentiated.
        parameters: θ, named, in the factor dtype.
        chunk: examples.
    """

    def __init__(self, objective: Objective, parameters: Tensors, chunk: Any) -> None:
        # Built per call, never kept: a product may be traced inside a loop, whose tracers must not leak.
        self._forward = lambda: ForwardLinearisation(objective, parameters, chunk)

        def loss_of(values: Tensors) -> tuple[Array, Any]:
            loss, (output, normaliser) = objective.loss_of(values, chunk)
            return loss, (loss, output, normaliser)

        self._gradient, self._linear, (self.loss, output, self.normaliser) = jax.linearize(
            jax.grad(loss_of, has_aux=True), parameters, has_aux=True
        )
        self.outputs = objective.wide({OUTPUT: output})
        self.weights = objective.weights(chunk)

    def gradient(self) -> Tensors:
        """Return the gradient of the summed loss."""
        return self._gradient

    def hessian_product(self, direction: Tensors) -> Tensors:
        """Return ∂²(summed loss) v."""
        return self._linear(direction)

    def jvp(self, direction: Tensors) -> dict[str, Array]:
        """Return J_k v for every named output; v is zero where it names no parameter."""
        return self._forward().jvp(direction)

    def vjp(self, cotangents: dict[str, Array]) -> Tensors:
        """Return Σ_k J_kᵀ u_k."""
        return self._forward().vjp(cotangents)

    def output_hessian_product(self, tangent: Array) -> Array:
        """Return ∂²(summed loss)/∂x_N² u."""
        return self._forward().output_hessian_product(tangent)
