"""The core's array operations in JAX; all of them work on tracers, so a whole fit compiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from llqr._checks import check_positive_int


@dataclass(frozen=True, kw_only=True)
class JaxBackend:
    """:class:`llqr.backend.Backend` over ``jax.numpy`` and ``jax.lax``.

    Attributes:
        map_batch_size: rows that :meth:`map` takes at once, ≥ 1; each takes its own memory. None for 1 on
            a CPU, where larger matrix products gain nothing, and 8 on accelerators.
    """

    compiled: ClassVar[bool] = True

    map_batch_size: int | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.map_batch_size is not None:
            check_positive_int("map_batch_size", self.map_batch_size)

    def einsum(self, equation: str, *operands: Array) -> Array:
        """Return the Einstein summation of the operands."""
        return jnp.einsum(equation, *operands)

    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        """Return zeros of the given shape in the dtype of ``like``."""
        return jnp.zeros(tuple(shape), like.dtype)

    def ones(self, shape: Sequence[int], like: Array) -> Array:
        """Return ones of the given shape in the dtype of ``like``."""
        return jnp.ones(tuple(shape), like.dtype)

    def asarray(self, value: Any, like: Array) -> Array:
        """Return a NumPy array, a number or a JAX array in the dtype of ``like``."""
        return jnp.asarray(value).astype(like.dtype)

    def integer(self, value: Any, like: Array) -> Array:
        """Return a number, or an array of them, as int32; fractions, as schedules have them, are cut off."""
        return jnp.asarray(value).astype(jnp.int32)

    def where(self, condition: Array, when_true: Array, when_false: Array) -> Array:
        """Select element by element."""
        return jnp.where(condition, when_true, when_false)

    def maximum(self, x: Array, floor: Array | float) -> Array:
        """Return the larger of ``x`` and ``floor``, element by element."""
        return jnp.maximum(x, floor)

    def isfinite(self, x: Array) -> Array:
        """Return a 0-d boolean: is every element finite."""
        return jnp.isfinite(x).all()

    def norms(self, values: Sequence[Array]) -> Array:
        """Return the Euclidean norm of every array, [n]."""
        return jnp.sqrt(self.dots(values, values))

    def dots(self, xs: Sequence[Array], ys: Sequence[Array]) -> Array:
        """Return ⟨x, y⟩ of every pair, [n]."""
        return jnp.stack([_dot(x, y) for x, y in zip(xs, ys, strict=True)])

    def scaled(self, values: Sequence[Array], factors: Array) -> list[Array]:
        """Return every array times its factor."""
        return [self.asarray(factors[i], value) * value for i, value in enumerate(values)]

    def choose(
        self, flags: Array, when_true: Sequence[Array], when_false: Sequence[Array]
    ) -> list[Array]:
        """Return, array by array, one of two by a boolean each."""
        pairs = enumerate(zip(when_true, when_false, strict=True))
        return [jnp.where(flags[index], a, b) for index, (a, b) in pairs]

    def sqrt(self, x: Array) -> Array:
        """Return the square root, element by element."""
        return jnp.sqrt(x)

    def sigmoid(self, x: Array) -> Array:
        """Return the logistic function, element by element."""
        return jax.nn.sigmoid(x)

    def softmax(self, x: Array) -> Array:
        """Return the softmax over the last axis."""
        return jax.nn.softmax(x, axis=-1)

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Join arrays along their first axis."""
        return jnp.concatenate(list(arrays))

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Stack arrays along a new first axis."""
        return jnp.stack(list(arrays))

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """Return ascending eigenvalues [n] and eigenvectors [n, n] of a symmetric matrix."""
        values, vectors = jnp.linalg.eigh(matrix)
        return values, vectors

    def while_loop(self, condition: Callable, body: Callable, state: Any) -> Any:
        """Apply ``body`` while the condition holds; the state keeps its dtypes."""
        return lax.while_loop(condition, lambda old: _as_before(body(old), old), state)

    def repeat(self, body: Callable, value: Any) -> Any:
        """Apply ``body`` at least once, and again while it asks for that; ``body`` is compiled once.

        Returns:
            The output of the last call.
        """
        _, _, shapes = jax.eval_shape(body, value)
        nothing = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), shapes)
        start = (value, jnp.ones((), bool), nothing)
        return self.while_loop(lambda state: state[1], lambda state: body(state[0]), start)[2]

    def cond(self, predicate: Array, when_true: Callable, when_false: Callable, state: Any) -> Any:
        """Apply one of two functions to the state; only the chosen one is computed."""
        return lax.cond(predicate, when_true, when_false, state)

    def select(self, predicate: Array, when_true: Any, when_false: Any) -> Any:
        """Choose between two equal nested structures of arrays."""
        return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), when_true, when_false)

    def map(self, function: Callable, rows: Array) -> Array:
        """Apply ``function`` to every row, ``map_batch_size`` rows at a time, and stack the results."""
        size = self.map_batch_size or (1 if jax.default_backend() == "cpu" else 8)
        return lax.map(function, rows, batch_size=None if size == 1 else size)

    def scan(
        self, body: Callable, state: Any, rows: tuple[Array, ...], reverse: bool = False
    ) -> tuple[Any, Array | None]:
        """Pass a state along the rows of some arrays; ``body`` is traced once."""
        return lax.scan(body, state, rows, reverse=reverse)


def _dot(x: Array, y: Array) -> Array:
    """Return ⟨x, y⟩ in full precision; with jax 0.7 on a CPU a sum of products is three kernels."""
    return jnp.vdot(x, y, precision=lax.Precision.HIGHEST)


def _as_before(new: Any, old: Any) -> Any:
    """Return ``new`` in the dtypes of ``old``: a Python number in a formula must not change a carry."""
    return jax.tree.map(lambda a, b: jnp.asarray(a).astype(jnp.asarray(b).dtype), new, old)
