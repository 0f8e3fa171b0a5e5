"""Span structure: a few step sizes over given directions.

    U x = Σ_j s_j x_j,   x_j = P_j X,   s [J]

The preconditioners P_j are given from outside (the identity, the base optimizer's diagonal, …), so what
a block sees is the stack of their results: x [J, n]. One s per layer (or per parameter) and direction.
The first source counts with 1 at the start and the others with 0: U starts as the identity on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

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
class Span(AbstractStructure):
    """U x = Σ_j s_j x_j with one s per layer (or parameter) and direction.

    Attributes:
        per: one s_j for each ``"layer"`` or each ``"parameter"``.
        directions: names of the given directions; ``"gradient"`` is the raw gradient, ``"update"`` the
            base optimizer's update (sign: a descent direction is positive). The wrapper supplies them.
        floor: lower bound on every s after each inner step, None for none.
    """

    layout: ClassVar[Literal["folded", "vector"]] = "vector"
    stacks_sources: ClassVar[bool] = True
    few_factors: ClassVar[bool] = True

    per: Literal["layer", "parameter"] = "layer"
    directions: tuple[str, ...] = ("gradient", "update")
    floor: float | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_group(self.per)
        check_floor(self.floor)
        names = () if isinstance(self.directions, str) else tuple(self.directions)
        if not names or len(set(names)) != len(names):
            raise ValueError(
                "directions must be a tuple that names at least one direction and none twice, got "
                f'{self.directions!r}; pass e.g. directions=("gradient", "update")'
            )
        # A tuple whatever sequence was given: structures are compared and hashed to group layers.
        object.__setattr__(self, "directions", names)

    @property
    def group(self) -> Literal["parameter", "layer"]:
        """As set by ``per``."""
        return self.per

    @property
    def sources(self) -> tuple[str, ...]:
        """The directions that the wrapper must supply."""
        return self.directions

    @property
    def bounded(self) -> bool:
        """True with a ``floor``."""
        return self.floor is not None

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"s": (J,)}``."""
        return {"s": (len(self.directions),)}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return s = (1, 0, …, 0)."""
        return {"s": backend.asarray(np.eye(len(self.directions))[0], like)}

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return Σ_j s_j x_j from x [J, n]."""
        return factors["s"] @ x

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return ds_j = ⟨cotangent, x_j⟩."""
        return {"s": x @ cotangent}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return Σ_j ṡ_j x_j."""
        return tangent["s"] @ x

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return the [n, J·n] matrix of the map from the stacked directions."""
        n = size_of(shape)
        blocks = backend.einsum("j,ab->ajb", factors["s"], identity(backend, n, factors["s"]))
        return blocks.reshape((n, n * len(self.directions)))

    def project(self, backend: Backend, factors: Factors) -> Factors:
        """Clip s from below at ``floor``."""
        return clip_from_below(backend, factors, self.floor)

    def describe(self, shape: Shape) -> str:
        """Return the report text."""
        return f"span of {', '.join(self.directions)} (per {self.per})"
