"""Dense structure: one full matrix per layer.

    U x = D x,   D [n, n]

Memory n², so layers with more than ``max_factor_dim`` entries fall back to a diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llqr._checks import check_positive_int
from llqr.backend import Array, Backend
from llqr.structures.base import (
    AbstractStructure,
    Factors,
    Shape,
    identity,
    size_of,
)
from llqr.structures.elementwise import Diagonal


@dataclass(frozen=True, kw_only=True)
class Dense(AbstractStructure):
    """U x = D x on the layer's parameters joined into one vector.

    Attributes:
        max_factor_dim: largest layer size n that gets a matrix; larger layers get a diagonal.
    """

    layout: ClassVar[Literal["folded", "vector"]] = "vector"

    max_factor_dim: int = 1024

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("max_factor_dim", self.max_factor_dim)

    @property
    def group(self) -> Literal["parameter", "layer"]:
        """One matrix per layer."""
        return "layer"

    def resolve(self, shape: Shape) -> AbstractStructure:
        """Fall back to a diagonal when the layer is larger than ``max_factor_dim``."""
        return self if size_of(shape) <= self.max_factor_dim else Diagonal()

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"D": (n, n)}``."""
        return {"D": (size_of(shape), size_of(shape))}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return D = I."""
        return {"D": identity(backend, size_of(shape), like)}

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return D x."""
        return factors["D"] @ x

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return dD = cotangent xᵀ."""
        return {"D": backend.einsum("i,j->ij", cotangent, x)}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return Ḋ x."""
        return tangent["D"] @ x

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return D."""
        return factors["D"]

    def describe(self, shape: Shape) -> str:
        """Return the report text."""
        return "dense"
