"""The few array operations the core needs, and their NumPy implementation.

The core is written once, against this protocol; :mod:`llqr.torch` and :mod:`llqr.jax` supply it for
their arrays. Arrays of all three kinds already agree on arithmetic operators, ``@``, ``.reshape``,
``.shape``, ``.sum()`` and indexing, so only what differs between them stands here.

The array API standard is not used: it has no ``einsum``, no control flow that a tracer can follow
and no autodiff.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

Array = Any
"""A NumPy, torch or JAX array."""

Tensors = dict[str, Array]
"""Named arrays: parameters, gradients, steps. Keys are parameter names, never positions."""


_EPSILONS = {
    "float64": 2.0**-52,
    "float32": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}


def machine_epsilon(like: Array) -> float:
    """Return the relative spacing of numbers in the dtype of ``like``.

    Raises:
        TypeError: if the dtype is not a floating one.
    """
    name = str(like.dtype).removeprefix("torch.")
    if name not in _EPSILONS:
        raise TypeError(f"factors must be of a floating dtype, got {name}; cast them to float32")
    return _EPSILONS[name]


class Backend(Protocol):
    """Array operations and control flow of one framework.

    ``like`` is an array whose dtype and device the result takes.
    """

    @property
    def compiled(self) -> bool:
        """Are computations compiled before they run, each place where a function is used anew."""
        ...

    def einsum(self, equation: str, *operands: Array) -> Array:
        """Return the Einstein summation of the operands."""
        ...

    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        """Return zeros of the given shape."""
        ...

    def ones(self, shape: Sequence[int], like: Array) -> Array:
        """Return ones of the given shape."""
        ...

    def asarray(self, value: Any, like: Array) -> Array:
        """Return a Python number, NumPy array or array of this framework in the dtype of ``like``."""
        ...

    def integer(self, value: Any, like: Array) -> Array:
        """Return a number, or an array of them, as 32-bit integers on the device of ``like``."""
        ...

    def where(self, condition: Array, when_true: Array, when_false: Array) -> Array:
        """Select element by element."""
        ...

    def maximum(self, x: Array, floor: Array | float) -> Array:
        """Return the larger of ``x`` and ``floor``, element by element."""
        ...

    def isfinite(self, x: Array) -> Array:
        """Return a 0-d boolean: is every element finite."""
        ...

    def norms(self, values: Sequence[Array]) -> Array:
        """Return the Euclidean norm of every array, [n]."""
        ...

    def dots(self, xs: Sequence[Array], ys: Sequence[Array]) -> Array:
        """Return ⟨x, y⟩ of every pair, [n]; both of a pair have one shape."""
        ...

    def scaled(self, values: Sequence[Array], factors: Array) -> list[Array]:
        """Return every array times its factor, in its own dtype; ``factors`` is [n]."""
        ...

    def choose(
        self, flags: Array, when_true: Sequence[Array], when_false: Sequence[Array]
    ) -> list[Array]:
        """Return, array by array, one of two by a boolean each; ``flags`` is [n]."""
        ...

    def sqrt(self, x: Array) -> Array:
        """Return the square root, element by element."""
        ...

    def sigmoid(self, x: Array) -> Array:
        """Return the logistic function, element by element."""
        ...

    def softmax(self, x: Array) -> Array:
        """Return the softmax over the last axis."""
        ...

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Join arrays along their first axis."""
        ...

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Stack arrays along a new first axis."""
        ...

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """Return ascending eigenvalues [n] and eigenvectors [n, n] of a symmetric matrix."""
        ...

    def while_loop(self, condition: Callable, body: Callable, state: Any) -> Any:
        """Apply ``body`` to the state while ``condition(state)`` holds."""
        ...

    def repeat(self, body: Callable, value: Any) -> Any:
        """Apply ``body`` at least once, and again while it asks for that.

        Args:
            body: value ↦ (next value, a 0-d boolean: once more?, output).
            value: given to the first call.

        Returns:
            The output of the last call.
        """
        ...

    def cond(self, predicate: Array, when_true: Callable, when_false: Callable, state: Any) -> Any:
        """Apply one of two functions to the state; both return the same structure."""
        ...

    def select(self, predicate: Array, when_true: Any, when_false: Any) -> Any:
        """Choose between two equal nested structures of arrays."""
        ...

    def map(self, function: Callable, rows: Array) -> Array:
        """Apply ``function`` to every row of ``rows`` and stack the results."""
        ...

    def scan(
        self, body: Callable, state: Any, rows: tuple[Array, ...], reverse: bool = False
    ) -> tuple[Any, Array | None]:
        """Pass a state along the rows of some arrays, which share their first axis.

        Args:
            body: (state, one row of every array) ↦ (state, an array or None).
            state: before the first row.
            rows: the arrays.
            reverse: begin with the last row.

        Returns:
            The last state, and what ``body`` put out, stacked in the order of the rows; None if it was None.
        """
        ...


class NumpyBackend:
    """The protocol over NumPy: the core runs and is tested without any framework."""

    compiled: ClassVar[bool] = False

    def einsum(self, equation: str, *operands: Array) -> Array:
        """Return the Einstein summation of the operands."""
        return np.einsum(equation, *operands, optimize=True)

    def zeros(self, shape: Sequence[int], like: Array) -> Array:
        """Return zeros of the given shape."""
        return np.zeros(tuple(shape), dtype=np.asarray(like).dtype)

    def ones(self, shape: Sequence[int], like: Array) -> Array:
        """Return ones of the given shape."""
        return np.ones(tuple(shape), dtype=np.asarray(like).dtype)

    def asarray(self, value: Any, like: Array) -> Array:
        """Return the value with the dtype of ``like``."""
        return np.asarray(value, dtype=np.asarray(like).dtype)

    def integer(self, value: Any, like: Array) -> Array:
        """Return a number, or an array of them, as 32-bit integers."""
        return np.asarray(value, dtype=np.int32)

    def where(self, condition: Array, when_true: Array, when_false: Array) -> Array:
        """Select element by element."""
        return np.where(condition, when_true, when_false)

    def maximum(self, x: Array, floor: Array | float) -> Array:
        """Return the larger of ``x`` and ``floor``."""
        return np.maximum(x, floor)

    def isfinite(self, x: Array) -> Array:
        """Return whether every element is finite."""
        return np.isfinite(x).all()

    def norms(self, values: Sequence[Array]) -> Array:
        """Return the Euclidean norm of every array, [n]."""
        return np.sqrt(self.dots(values, values))

    def dots(self, xs: Sequence[Array], ys: Sequence[Array]) -> Array:
        """Return ⟨x, y⟩ of every pair, [n]."""
        return np.stack([(x * y).sum() for x, y in zip(xs, ys, strict=True)])

    def scaled(self, values: Sequence[Array], factors: Array) -> list[Array]:
        """Return every array times its factor."""
        pairs = zip(values, factors, strict=True)
        return [self.asarray(factor, value) * value for value, factor in pairs]

    def choose(
        self, flags: Array, when_true: Sequence[Array], when_false: Sequence[Array]
    ) -> list[Array]:
        """Return, array by array, one of two by a boolean each."""
        return [a if flag else b for flag, a, b in zip(flags, when_true, when_false, strict=True)]

    def sqrt(self, x: Array) -> Array:
        """Return the square root."""
        return np.sqrt(x)

    def sigmoid(self, x: Array) -> Array:
        """Return the logistic function."""
        # Neither overflows nor loses the digits of small values.
        return np.exp(-np.logaddexp(0.0, -x))

    def softmax(self, x: Array) -> Array:
        """Return the softmax over the last axis."""
        shifted = np.exp(x - x.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        """Join arrays along their first axis."""
        return np.concatenate(list(arrays))

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Stack arrays along a new first axis."""
        return np.stack(list(arrays))

    def eigh(self, matrix: Array) -> tuple[Array, Array]:
        """Return ascending eigenvalues and eigenvectors."""
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors

    def while_loop(self, condition: Callable, body: Callable, state: Any) -> Any:
        """Apply ``body`` while the condition holds."""
        while bool(condition(state)):
            state = body(state)
        return state

    def repeat(self, body: Callable, value: Any) -> Any:
        """Apply ``body`` at least once, and again while it asks for that."""
        return eager_repeat(body, value)

    def cond(self, predicate: Array, when_true: Callable, when_false: Callable, state: Any) -> Any:
        """Apply one of two functions to the state."""
        return when_true(state) if bool(predicate) else when_false(state)

    def select(self, predicate: Array, when_true: Any, when_false: Any) -> Any:
        """Choose between two equal nested structures."""
        return when_true if bool(predicate) else when_false

    def map(self, function: Callable, rows: Array) -> Array:
        """Apply the function to every row and stack."""
        return np.stack([function(row) for row in rows])

    def scan(
        self, body: Callable, state: Any, rows: tuple[Array, ...], reverse: bool = False
    ) -> tuple[Any, Array | None]:
        """Pass a state along the rows of some arrays."""
        return eager_scan(body, state, rows, reverse, np.stack)


def eager_repeat(body: Callable, value: Any) -> Any:
    """Return :meth:`Backend.repeat` as a Python loop, for frameworks that compute at once."""
    value, again, output = body(value)
    while bool(again):
        value, again, output = body(value)
    return output


def eager_scan(
    body: Callable, state: Any, rows: tuple[Array, ...], reverse: bool, stack: Callable
) -> tuple[Any, Array | None]:
    """Return :meth:`Backend.scan` as a Python loop, for frameworks that compute at once."""
    outputs = []
    indices = range(len(rows[0]))
    for index in reversed(indices) if reverse else indices:
        state, output = body(state, tuple(array[index] for array in rows))
        outputs.append(output)
    if not outputs or outputs[0] is None:
        return state, None
    return state, stack(outputs[::-1] if reverse else outputs)
