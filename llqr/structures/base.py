"""What every preconditioner structure provides: a linear map U with few learnable factors.

A structure sees one *block* at a time: a parameter or a whole layer (``group``), folded to a matrix
[m, n] (vectors stay [n]) or joined into one vector [n] (``layout``).

Laws, checked for every structure by the shared suite in ``tests/structures``:

* ``init`` gives the identity: U x = x;
* ``apply`` is linear in x and equals ``to_dense(...) @ vec(x)``;
* ``pushforward(f, ḟ, x)`` is the derivative of ``apply(f, x)`` in f along ḟ;
* ``pullback`` is its adjoint: ⟨R, pushforward(f, ḟ, x)⟩ = ⟨pullback(f, x, R), ḟ⟩.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import numpy as np

from llqr._checks import is_number
from llqr.backend import Array, Backend

Factors = dict[str, Array]
"""The learnable arrays of one block, e.g. ``{"A": [m, m], "B": [n, n]}`` for Kronecker."""

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AbstractStructure(abc.ABC):
    """A family of linear maps U on a block, with factors f that start at the identity."""

    layout: ClassVar[Literal["folded", "vector"]] = "folded"
    """Does it see a weight folded to two axes (vectors as they are), or its block as one vector."""
    stacks_sources: ClassVar[bool] = False
    """Does it see its sources stacked on a new first axis (also when there is only one)."""
    few_factors: ClassVar[bool] = False
    """Are there so few factors that a direct solve is sensible; :meth:`project` then only raises entries."""

    @property
    def group(self) -> Literal["parameter", "layer"]:
        """Does one set of factors serve a parameter or a whole layer."""
        return "parameter"

    def owner(self, name: str) -> str:
        """Return which block a parameter belongs to: parameters of one owner share factors."""
        return layer_of(name) if self.group == "layer" else name

    @property
    def linear_in_factors(self) -> bool:
        """Is U x linear (or affine) in the factors, so that m is quadratic in them."""
        return True

    @property
    def bounded(self) -> bool:
        """Does :meth:`project` ever change factors."""
        return False

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the vectors U acts on; ``"input"`` is what the preconditioner is applied to."""
        return ("input",)

    def resolve(self, shape: Shape) -> AbstractStructure:
        """Return the structure that a block of this shape really gets (e.g. diagonal for vectors)."""
        return self

    @abc.abstractmethod
    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shape of every factor for a block of the given shape."""

    @abc.abstractmethod
    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return the factors of the identity, in the dtype and on the device of ``like``."""

    @abc.abstractmethod
    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return U x, of the shape of x."""

    @abc.abstractmethod
    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return the gradient of ⟨cotangent, U x⟩ in the factors."""

    @abc.abstractmethod
    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return the derivative of U x in the factors along ``tangent``."""

    @abc.abstractmethod
    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return U as a matrix on the row-major vec(x): the oracle for tests, O(n²) memory."""

    def project(self, backend: Backend, factors: Factors) -> Factors:
        """Return the nearest admissible factors (e.g. clipped from below)."""
        return factors

    @abc.abstractmethod
    def describe(self, shape: Shape) -> str:
        """Return a short text for the report, naming any fallback this shape meets."""

    def factor_count(self, shape: Shape) -> int:
        """Return the number of factor entries for a block of this shape."""
        return sum(prod(factor) for factor in self.factor_shapes(shape).values())


def layer_of(name: str) -> str:
    """Return the layer a parameter belongs to: its name without the last ``/`` or ``.`` part."""
    cut = max(name.rfind("/"), name.rfind("."))
    return name[:cut] if cut > 0 else name


def check_group(group: str) -> None:
    """Raise unless ``group`` is ``"layer"`` or ``"parameter"``.

    Raises:
        ValueError: with the rule, the value and the remedy.
    """
    if group not in ("layer", "parameter"):
        raise ValueError(
            f'per must be "layer" or "parameter", got {group!r}; the default is "layer"'
        )


def check_floor(floor: float | None) -> None:
    """Raise unless ``floor`` is None or a number.

    Raises:
        ValueError: with the rule, the value and the remedy.
    """
    if floor is not None and not (is_number(floor) and floor == floor):
        raise ValueError(
            f"floor must be None (no clipping) or a number, got {floor!r}; the paper uses floor=1e-8"
        )


def clip_from_below(backend: Backend, factors: Factors, floor: float | None) -> Factors:
    """Return the factors with every entry at least ``floor``; unchanged when floor is None."""
    if floor is None:
        return factors
    return {name: backend.maximum(value, floor) for name, value in factors.items()}


def identity(backend: Backend, size: int, like: Array) -> Array:
    """Return the identity matrix [size, size] in the dtype and on the device of ``like``."""
    return backend.asarray(np.eye(size), like)


def dense_kronecker(backend: Backend, left: Array, right: Array) -> Array:
    """Return left ⊗ right, i.e. the matrix of X ↦ left X rightᵀ on the row-major vec(X)."""
    rows, columns = left.shape[0] * right.shape[0], left.shape[1] * right.shape[1]
    return backend.einsum("ij,kl->ikjl", left, right).reshape((rows, columns))


def as_matrix(backend: Backend, factor: Array) -> Array:
    """Return a factor as a matrix: a vector stands for the diagonal one."""
    if len(factor.shape) == 2:
        return factor
    return identity(backend, factor.shape[0], factor) * factor.reshape((1, -1))


def size_of(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    return prod(shape)
