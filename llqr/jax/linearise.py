"""A model and its loss, linearised on a batch: what the core's curvature products are built from.

With one chunk the model is linearised once (``jax.linearize`` of the outputs, or of the loss's gradient for
the Hessian) and every inner product replays the linear map; its transpose gives Jᵀ u. With several, equal
chunks run through ``jax.lax.scan`` and each is linearised where it is used, so that memory is bounded by one
chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from llqr._checks import check_positive_int
from llqr.backend import Tensors
from llqr.curvature import AbstractCurvature, Hessian
from llqr.jax.backend import JaxBackend
from llqr.jax.batches import batch_size, split
from llqr.jax.linearisation import ForwardLinearisation, HessianLinearisation
from llqr.jax.naming import Naming
from llqr.jax.objective import LossFn, Objective, OutputsFn, WeightsFn


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
        self._whole: ForwardLinearisation | HessianLinearisation | None = None

    def sum_over_chunks(self, contribution: Callable[[Any], Any]) -> Any:
        """Return the sum of ``contribution(linearisation)`` over chunks."""
        if self._stacked is not None:
            return self._sum(lambda chunk: contribution(self._linearise(chunk)))
        if self._whole is None:
            # Not before: losses alone need none. The first call is quadratic_model's own, outside of loops,
            # so that what is kept belongs to no loop's body.
            self._whole = self._linearise(self._rest)
        return contribution(self._whole)

    def loss(self, step: Tensors) -> Array:
        """Return the mean loss at θ + step."""
        moved = self._moved(step)

        def contribution(chunk: Any) -> dict[str, Array]:
            loss, (_, normaliser) = self._objective.loss_of(moved, chunk)
            return {"loss": loss, "normaliser": normaliser}

        total = self._sum(contribution)
        return total["loss"] / total["normaliser"]

    def loss_and_gradient(self, step: Tensors) -> tuple[Array, Tensors]:
        """Return the mean loss and its gradient at θ + step."""
        moved = self._moved(step)

        def contribution(chunk: Any) -> dict[str, Any]:
            (loss, (_, normaliser)), gradient = jax.value_and_grad(
                self._objective.loss_of, has_aux=True
            )(moved, chunk)
            return {"loss": loss, "gradient": gradient, "normaliser": normaliser}

        total = self._sum(contribution)
        inverse = 1.0 / total["normaliser"]
        gradient = {name: value * inverse for name, value in total["gradient"].items()}
        return total["loss"] * inverse, gradient

    def _moved(self, step: Tensors) -> Tensors:
        return {name: value + step[name] for name, value in self._parameters.items()}

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
        ValueError: for an empty batch or pytree, a chunk size below 1, a loss that is not scalar, an
            intermediate layer with the output's name.
        TypeError: for parameters that are not floating-point arrays, for a model that returns no array.
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
    parameters = naming.flatten(params, "params")
    problem = JaxProblem(objective, parameters, batch, chunk_size)
    # Shapes alone, so that a bad model or loss is named here and not at the first product.
    jax.eval_shape(lambda theta: objective.loss_of(theta, batch), parameters)
    return problem
