"""Kronecker structure: one matrix per axis of a weight.

    U X = A X Bᵀ,   A [m, m],   B [n, n],   X [m, n]
    pullback of R:  dA = R (X Bᵀ)ᵀ,   dB = Rᵀ (A X)

An axis longer than ``max_factor_dim`` gets a diagonal factor, stored as a vector. Vectors fall back to
the diagonal structure.
"""

from __future__ import annotations

from dataclasses import dataclass

from llqr._checks import check_positive_int
from llqr.backend import Array, Backend
from llqr.structures.base import (
    AbstractStructure,
    Factors,
    Shape,
    as_matrix,
    dense_kronecker,
    identity,
)
from llqr.structures.elementwise import Diagonal


def _left(factor: Array, x: Array) -> Array:
    """Return factor · X; a vector factor scales the rows."""
    return factor @ x if len(factor.shape) == 2 else factor.reshape((-1, 1)) * x


def _right(x: Array, factor: Array) -> Array:
    """Return X · factorᵀ; a vector factor scales the columns."""
    return x @ factor.T if len(factor.shape) == 2 else x * factor.reshape((1, -1))


@dataclass(frozen=True, kw_only=True)
class Kronecker(AbstractStructure):
    """U X = A X Bᵀ for one folded weight X [m, n].

    Attributes:
        max_factor_dim: longest axis that gets a matrix; a longer one gets a diagonal factor.
    """

    max_factor_dim: int = 1024

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("max_factor_dim", self.max_factor_dim)

    @property
    def linear_in_factors(self) -> bool:
        """Bilinear, so no."""
        return False

    def resolve(self, shape: Shape) -> AbstractStructure:
        """Fall back to a diagonal for vectors and scalars."""
        return self if len(shape) == 2 else Diagonal()

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"A": (m, m) or (m,), "B": (n, n) or (n,)}``."""
        return {
            name: (dim, dim) if dim <= self.max_factor_dim else (dim,)
            for name, dim in zip("AB", shape, strict=True)
        }

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return A = I, B = I."""
        return {
            name: identity(backend, factor[0], like)
            if len(factor) == 2
            else backend.ones(factor, like)
            for name, factor in self.factor_shapes(shape).items()
        }

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return A X Bᵀ."""
        return _right(_left(factors["A"], x), factors["B"])

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return dA = R (X Bᵀ)ᵀ and dB = Rᵀ (A X), their diagonals for vector factors."""
        left, right = factors["A"], factors["B"]
        from_right, from_left = _right(x, right), _left(left, x)
        return {
            "A": cotangent @ from_right.T
            if len(left.shape) == 2
            else backend.einsum("ij,ij->i", cotangent, from_right),
            "B": cotangent.T @ from_left
            if len(right.shape) == 2
            else backend.einsum("ij,ij->j", cotangent, from_left),
        }

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return Ȧ X Bᵀ + A X Ḃᵀ."""
        return _right(_left(tangent["A"], x), factors["B"]) + _right(
            _left(factors["A"], x), tangent["B"]
        )

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return A ⊗ B."""
        return dense_kronecker(
            backend, as_matrix(backend, factors["A"]), as_matrix(backend, factors["B"])
        )

    def describe(self, shape: Shape) -> str:
        """Return the report text, naming axes with a diagonal factor."""
        capped = [name for name, f in self.factor_shapes(shape).items() if len(f) == 1]
        return "kronecker" + (f" (diagonal {', '.join(capped)}: above cap)" if capped else "")
