"""Vector-space arithmetic on named arrays (:data:`llqr.backend.Tensors`)."""

from __future__ import annotations

from collections.abc import Callable

from llqr.backend import Array, Backend, Tensors


def map_tensors(function: Callable[..., Array], *operands: Tensors) -> Tensors:
    """Apply a function name by name; all operands hold the names of the first."""
    return {name: function(*(operand[name] for operand in operands)) for name in operands[0]}


def add(x: Tensors, y: Tensors) -> Tensors:
    """Return x + y."""
    return map_tensors(lambda a, b: a + b, x, y)


def scale(factor: Array | float, x: Tensors) -> Tensors:
    """Return factor · x."""
    return map_tensors(lambda a: factor * a, x)


def add_scaled(x: Tensors, factor: Array | float, y: Tensors) -> Tensors:
    """Return x + factor · y."""
    return map_tensors(lambda a, b: a + factor * b, x, y)


def dot(x: Tensors, y: Tensors) -> Array:
    """Return ⟨x, y⟩ summed over all names, a 0-d array."""
    total = 0.0
    for name in x:
        total = total + (x[name] * y[name]).sum()
    return total


def norm(backend: Backend, x: Tensors) -> Array:
    """Return the Euclidean norm over all names, a 0-d array."""
    values = list(x.values())
    return backend.sqrt(backend.dots(values, values).sum())


def all_finite(backend: Backend, x: Tensors) -> Array:
    """Return a 0-d boolean: is every element of every array finite."""
    flags = [backend.isfinite(value) for value in x.values()]
    result = flags[0]
    for flag in flags[1:]:
        result = result & flag
    return result
