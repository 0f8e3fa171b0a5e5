"""Newton steps damped by the gradient's norm, as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from llqr import relatives, tensors
from llqr._checks import check_positive
from llqr.curvature import AbstractCurvature, quadratic_model
from llqr.jax.backend import JaxBackend
from llqr.jax.linearise import linearise
from llqr.jax.naming import Naming, like_tree
from llqr.jax.objective import LossFn, OutputsFn, WeightsFn
from llqr.jax.optimizer import check_arguments


class GradientNormalizedState(NamedTuple):
    """State of :func:`gradient_normalized_newton`: a pytree of arrays only.

    Attributes:
        method: γ and counters.
        skipped: steps skipped because the gradient was not finite, 0-d int32.
    """

    method: Any
    skipped: Array


def gradient_normalized_newton(
    learning_rate: float = 1.0,
    *,
    outputs_fn: OutputsFn,
    loss_fn: LossFn,
    curvature: AbstractCurvature,
    method: relatives.GradientNormalizedNewton | None = None,
    weights_fn: WeightsFn | None = None,
    chunk_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Return u = rate · δ of :class:`llqr.relatives.GradientNormalizedNewton`.

    ``update(grads, state, params, batch=batch)`` computes gradient and curvature from the batch itself; of
    ``grads`` only the dtypes and whether they are finite matter. For the method as published pass the whole
    data set. A step whose gradient is not finite returns zero updates and is counted in ``skipped``.

    Args:
        learning_rate: share of δ that is taken, > 0; 1 as published.
        outputs_fn: (params, batch) ↦ outputs [batch, …].
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser).
        curvature: C, e.g. ``Hessian()`` or ``GaussNewton(metric=LossHessian())``.
        method: settings.
        weights_fn: batch ↦ weights (mask) of the events as in the loss, or None.
        chunk_size: examples linearised at a time, None for all.

    Returns:
        The transformation; its state is a :class:`GradientNormalizedState`.
    """
    check_positive("learning_rate", learning_rate)
    newton, backend = method or relatives.GradientNormalizedNewton(), JaxBackend()

    def init(params: Any) -> GradientNormalizedState:
        like = jnp.zeros((), Naming.of(params).factor_dtype)
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), newton.init(backend, like))
        return GradientNormalizedState(state, jnp.zeros((), jnp.int32))

    def update(
        updates: Any,
        state: GradientNormalizedState,
        params: Any = None,
        *,
        batch: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, GradientNormalizedState]:
        check_arguments(params, batch, None)
        problem = linearise(
            outputs_fn,
            loss_fn,
            params,
            batch,
            curvature=curvature,
            weights_fn=weights_fn,
            chunk_size=chunk_size,
            backend=backend,
        )
        model = quadratic_model(curvature, problem)
        given = Naming.of(params).flatten(updates)
        finite = tensors.all_finite(backend, {**model.gradient})
        finite = finite & tensors.all_finite(backend, given)

        def take(inner: Any) -> tuple[Any, Any]:
            step, new = newton.update(backend, inner, model)
            new = jax.tree.map(lambda value, old: value.astype(old.dtype), new, inner)
            return like_tree(tensors.scale(learning_rate, step), updates), new

        def skip(inner: Any) -> tuple[Any, Any]:
            return jax.tree.map(jnp.zeros_like, updates), inner

        result, inner = lax.cond(finite, take, skip, state.method)
        skipped = state.skipped + 1 - finite.astype(jnp.int32)
        return result, GradientNormalizedState(inner, skipped)

    return optax.GradientTransformationExtraArgs(init, update)
