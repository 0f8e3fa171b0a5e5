"""Scalar (one number per layer) and diagonal (one number per entry) structures.

    scalar     U x = s x
    diagonal   U x = d ∘ x

Source: the published method's cheapest structures (arXiv 2605.04230). Cost per apply: one product per
entry. Memory: 1 and n numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llqr.backend import Array, Backend
from llqr.structures.base import (
    AbstractStructure,
    Factors,
    Shape,
    check_floor,
    check_group,
    clip_from_below,
    identity,
    size_of,
)


@dataclass(frozen=True, kw_only=True)
class Scalar(AbstractStructure):
    """U x = s x with one s per layer.

    Attributes:
        per: one s for each ``"layer"`` or each ``"parameter"``.
        floor: lower bound on s after every inner step, None for none (the paper: 1e-8).
    """

    layout: ClassVar[Literal["folded", "vector"]] = "vector"
    few_factors: ClassVar[bool] = True

    per: Literal["layer", "parameter"] = "layer"
    floor: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_group(self.per)
        check_floor(self.floor)

    @property
    def group(self) -> Literal["parameter", "layer"]:
        """As set by ``per``."""
        return self.per

    @property
    def bounded(self) -> bool:
        """True with a ``floor``."""
        return self.floor is not None

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"s": (1,)}``."""
        return {"s": (1,)}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return s = 1."""
        return {"s": backend.ones((1,), like)}

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return s x."""
        return factors["s"][0] * x

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return ds = ⟨cotangent, x⟩."""
        return {"s": (cotangent * x).sum().reshape((1,))}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return ṡ x."""
        return tangent["s"][0] * x

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return s I."""
        return factors["s"][0] * identity(backend, size_of(shape), factors["s"])

    def project(self, backend: Backend, factors: Factors) -> Factors:
        """Clip s from below at ``floor``."""
        return clip_from_below(backend, factors, self.floor)

    def describe(self, shape: Shape) -> str:
        """Return the report text."""
        return f"scalar (per {self.per})"


@dataclass(frozen=True, kw_only=True)
class Diagonal(AbstractStructure):
    """U x = d ∘ x with one d per entry, for blocks of any shape.

    Attributes:
        floor: lower bound on every d after each inner step, None for none (the paper: 1e-8).
    """

    floor: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_floor(self.floor)

    @property
    def bounded(self) -> bool:
        """True with a ``floor``."""
        return self.floor is not None

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"d": shape}``."""
        return {"d": shape}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return d = 1."""
        return {"d": backend.ones(shape, like)}

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return d ∘ x."""
        return factors["d"] * x

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return dd = cotangent ∘ x."""
        return {"d": cotangent * x}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return ḋ ∘ x."""
        return tangent["d"] * x

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return diag(d)."""
        n = size_of(shape)
        return identity(backend, n, factors["d"]) * factors["d"].reshape((1, n))

    def project(self, backend: Backend, factors: Factors) -> Factors:
        """Clip d from below at ``floor``."""
        return clip_from_below(backend, factors, self.floor)

    def describe(self, shape: Shape) -> str:
        """Return the report text."""
        return "diagonal"
