"""A model and its loss, linearised on a batch: what the core's curvature products are built from.

With one chunk the model is linearised once (``jax.linearize`` of the outputs, or of the loss's gradient for
the Hessian) and every inner product replays the linear map; its transpose gives Jᵀ u. With several, equal
chunks run through ``jax.lax.scan`` and each is linearised where it is used, so that memory is bounded by one
chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from llqr._checks import check_positive_int
from llqr.backend import Tensors
from llqr.curvature import OUTPUT, AbstractCurvature, Hessian, LossHessian
from llqr.jax.backend import JaxBackend
from llqr.jax.batches import batch_size, split
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
        """
        result = self.outputs_fn(self.naming.unflatten(parameters), chunk)
        output, intermediate = result if _is_pair(result) else (result, {})
        if not hasattr(output, "shape") or not isinstance(intermediate, Mapping):
            raise TypeError(
                "outputs_fn must return an array or (array, {name: array}), got "
                f"{jax.tree.structure(result)}; name intermediate layers in a dict"
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
        """Return J_k v for every named output."""
        return self._objective.wide(self._linear(direction))

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
        """Return J_k v for every named output."""
        return self._forward().jvp(direction)

    def vjp(self, cotangents: dict[str, Array]) -> Tensors:
        """Return Σ_k J_kᵀ u_k."""
        return self._forward().vjp(cotangents)

    def output_hessian_product(self, tangent: Array) -> Array:
        """Return ∂²(summed loss)/∂x_N² u."""
        return self._forward().output_hessian_product(tangent)


class JaxProblem:
    """:class:`llqr.curvature.LinearisedProblem` in JAX; made by :func:`linearise`.

    Args:
        objective: what is differentiated.
        parameters: θ, named, in the factor dtype.
        batch: the curvature batch.
        chunk_size: examples linearised at a time, None for all.
    """

    def __init__(
        self, objective: Objective, parameters: Tensors, batch: Any, chunk_size: int | None
    ) -> None:
        self.backend = objective.backend
        self._objective, self._parameters = objective, parameters
        size = batch_size(batch)
        self._stacked, self._rest = split(batch, min(chunk_size or size, size))
        whole = self._stacked is None
        self._whole = self._linearise(self._rest) if whole else None

    def sum_over_chunks(self, contribution: Callable[[Any], Any]) -> Any:
        """Return the sum of ``contribution(linearisation)`` over chunks."""
        if self._whole is not None:
            return contribution(self._whole)
        return self._sum(lambda chunk: contribution(self._linearise(chunk)))

    def loss_and_gradient(self, step: Tensors) -> tuple[Array, Tensors]:
        """Return the mean loss and its gradient at θ + step."""
        moved = {name: value + step[name] for name, value in self._parameters.items()}

        def contribution(chunk: Any) -> dict[str, Any]:
            (loss, (_, normaliser)), gradient = jax.value_and_grad(
                self._objective.loss_of, has_aux=True
            )(moved, chunk)
            return {"loss": loss, "gradient": gradient, "normaliser": normaliser}

        total = self._sum(contribution)
        inverse = 1.0 / total["normaliser"]
        gradient = {name: value * inverse for name, value in total["gradient"].items()}
        return total["loss"] * inverse, gradient

    def _sum(self, contribution: Callable[[Any], Any]) -> Any:
        """Return the sum of ``contribution(chunk)``: equal chunks in a scan, then the rest."""
        if self._stacked is None:
            return contribution(self._rest)
        stacked, rebuild = self._stacked

        def body(total: Any, moving: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, contribution(rebuild(moving))), None

        first = jax.tree.map(lambda leaf: leaf[0], stacked)
        shapes = jax.eval_shape(lambda moving: contribution(rebuild(moving)), first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = lax.scan(body, zeros, stacked)
        if self._rest is None:
            return total
        return jax.tree.map(jnp.add, total, contribution(self._rest))

    def _linearise(self, chunk: Any) -> ForwardLinearisation | HessianLinearisation:
        newton = isinstance(self._objective.curvature, Hessian)
        kind = HessianLinearisation if newton else ForwardLinearisation
        return kind(self._objective, self._parameters, chunk)


def linearise(
    outputs_fn: OutputsFn,
    loss_fn: LossFn,
    params: Any,
    batch: Any,
    *,
    curvature: AbstractCurvature,
    weights_fn: WeightsFn | None = None,
    chunk_size: int | None = None,
    backend: JaxBackend | None = None,
) -> JaxProblem:
    """Linearise a model and its loss around ``params`` on a batch.

    Args:
        outputs_fn: (params, batch) ↦ outputs [batch, …], or (outputs, {name: intermediate [batch, …]}).
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser).
        params: pytree of floating-point arrays.
        batch: pytree of arrays whose leading axis is the example; leaves without axes are passed on.
        curvature: which C the problem will serve.
        weights_fn: batch ↦ weights (mask) of the events as in the loss, a dict by output name, or None.
        chunk_size: examples linearised at a time, ≥ 1; None for all.
        backend: array operations, None for the default ones.

    Returns:
        A :class:`llqr.curvature.LinearisedProblem` for :func:`llqr.curvature.quadratic_model`.

    Raises:
        ValueError: for an empty batch or pytree, a chunk size below 1, a loss that is not scalar.
        TypeError: for parameters that are not floating-point arrays.
    """
    if chunk_size is not None:
        check_positive_int("chunk_size", chunk_size)
    naming = Naming.of(params)
    objective = Objective(
        outputs_fn=outputs_fn,
        loss_fn=loss_fn,
        weights_fn=weights_fn,
        naming=naming,
        curvature=curvature,
        backend=backend or JaxBackend(),
    )
    return JaxProblem(objective, naming.flatten(params, "params"), batch, chunk_size)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2


def _scalar(loss: Array) -> Array:
    if loss.shape != ():
        raise ValueError(
            f"loss_fn must return a scalar mean loss or (summed loss, normaliser), got shape {loss.shape}; "
            "reduce the loss with .mean(), or return (losses.sum(), count)"
        )
    return loss
