"""Any method of :mod:`llqr.relatives` as an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from llqr import relatives, tensors
from llqr._checks import check_not_negative, is_number
from llqr.jax.backend import JaxBackend
from llqr.jax.naming import Naming, like_tree
from llqr.relatives.base import AbstractMethod

LearningRate = float | Array | Callable[[Any], Any]
"""A number, or a schedule of the number of steps taken."""


class MethodState(NamedTuple):
    """State of :func:`from_method`: a pytree of arrays only.

    Attributes:
        method: the method's own state.
        count: steps taken, 0-d int32.
        skipped: steps skipped because the gradient was not finite, 0-d int32.
    """

    method: Any
    count: Array
    skipped: Array


def from_method(
    method: AbstractMethod, learning_rate: LearningRate, *, weight_decay: float = 0.0
) -> optax.GradientTransformationExtraArgs:
    """Return u = −step − rate · weight_decay · θ of a method.

    A step whose gradient is not finite returns zero updates, keeps the state and is counted in ``skipped``.

    Args:
        method: the method.
        learning_rate: ≥ 0, or a schedule of the number of steps taken.
        weight_decay: decoupled, ≥ 0; needs ``params`` in ``update``.

    Returns:
        The transformation; its state is a :class:`MethodState`.

    Raises:
        TypeError: if ``method`` is no method.
        ValueError: if a number is out of range.
    """
    if not isinstance(method, AbstractMethod):
        raise TypeError(
            f"method must be a method object, got {method!r}; pass e.g. llqr.relatives.LODO()"
        )
    if is_number(learning_rate):
        check_not_negative("learning_rate", learning_rate, 0.1)
    check_not_negative("weight_decay", weight_decay)
    backend = JaxBackend()

    def init(params: Any) -> MethodState:
        like = Naming.of(params).flatten(params, "params")
        # Every leaf a buffer of its own: a donated buffer may appear but once.
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), method.init(backend, like))
        return MethodState(state, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: MethodState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, MethodState]:
        naming = Naming.of(updates)
        gradient = naming.flatten(updates)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def take(inner: Any) -> tuple[Any, Any]:
            step, new = method.update(backend, inner, gradient, dict.fromkeys(gradient, rate))
            result = tensors.scale(-1.0, step)
            if weight_decay:
                result = tensors.add_scaled(
                    result, -rate * weight_decay, naming.flatten(_given(params), "params")
                )
            new = jax.tree.map(lambda value, old: value.astype(old.dtype), new, inner)
            return like_tree(result, updates), new

        def skip(inner: Any) -> tuple[Any, Any]:
            return jax.tree.map(jnp.zeros_like, updates), inner

        finite = tensors.all_finite(backend, gradient)
        # A branch rather than a choice by element: large states are then updated in place.
        result, inner = lax.cond(finite, take, skip, state.method)
        taken = finite.astype(jnp.int32)
        return result, MethodState(inner, state.count + taken, state.skipped + 1 - taken)

    return optax.GradientTransformationExtraArgs(init, update)


def lodo(
    learning_rate: LearningRate = 0.1, *, weight_decay: float = 0.0, **settings: Any
) -> optax.GradientTransformationExtraArgs:
    """Return the preconditioner learned on the hypergradient; settings of :class:`llqr.relatives.LODO`."""
    return from_method(relatives.LODO(**settings), learning_rate, weight_decay=weight_decay)


def mfac(
    learning_rate: LearningRate = 1e-3, *, weight_decay: float = 0.0, **settings: Any
) -> optax.GradientTransformationExtraArgs:
    """Return the inverse Fisher of a window, with settings of :class:`llqr.relatives.MFAC`."""
    return from_method(relatives.MFAC(**settings), learning_rate, weight_decay=weight_decay)


def lanton(
    learning_rate: LearningRate = 3e-3, *, weight_decay: float = 0.0, **settings: Any
) -> optax.GradientTransformationExtraArgs:
    """Return noise-adaptive orthogonalised momentum, with settings of :class:`llqr.relatives.LANTON`."""
    return from_method(relatives.LANTON(**settings), learning_rate, weight_decay=weight_decay)


def _given(params: Any) -> Any:
    if params is None:
        raise ValueError(
            "params must be given to update() with weight_decay, got None; call "
            "optimizer.update(grads, state, params)"
        )
    return params
