"""Low-rank structure: the identity plus a map of rank r.

    U x = x + V (Wᵀ x),   V, W [n, r]

It starts with V = 0 (so U is the identity) and W random: with W = 0 as well, the identity would be a
saddle from which no gradient leads. W comes from NumPy's generator, so every framework gets the same.
Memory 2 n r, cost 4 n r per apply. Vectors fall back to the diagonal structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
class LowRank(AbstractStructure):
    """U x = x + V (Wᵀ vec x) for one weight.

    Attributes:
        rank: r ≥ 1, capped at n.
        learn_projection: also learn W. Off, U is linear in the factors and conjugate gradient exact.
        seed: seed of the random W.
    """

    rank: int = 4  # r
    learn_projection: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("rank", self.rank)

    @property
    def linear_in_factors(self) -> bool:
        """Linear only while W is fixed."""
        return not self.learn_projection

    def resolve(self, shape: Shape) -> AbstractStructure:
        """Fall back to a diagonal for vectors, scalars and empty weights."""
        return self if len(shape) == 2 and size_of(shape) > 0 else Diagonal()

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"V": (n, r), "W": (n, r)}``."""
        n = size_of(shape)
        return {"V": (n, min(self.rank, n)), "W": (n, min(self.rank, n))}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return V = 0 and W with columns of expected norm 1."""
        n, r = self.factor_shapes(shape)["W"]
        projection = np.random.default_rng([self.seed, n, r]).standard_normal((n, r)) / np.sqrt(n)
        return {"V": backend.zeros((n, r), like), "W": backend.asarray(projection, like)}

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return x + V (Wᵀ x)."""
        flat = x.reshape((-1,))
        return x + (factors["V"] @ (factors["W"].T @ flat)).reshape(x.shape)

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return dV = R (Wᵀ x)ᵀ and dW = x (Vᵀ R)ᵀ (zero when W is fixed)."""
        flat, flat_bar = x.reshape((-1,)), cotangent.reshape((-1,))
        d_projection = (
            backend.einsum("i,r->ir", flat, factors["V"].T @ flat_bar)
            if self.learn_projection
            else backend.zeros(factors["W"].shape, flat)
        )
        d_basis = backend.einsum("i,r->ir", flat_bar, factors["W"].T @ flat)
        return {"V": d_basis, "W": d_projection}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return V̇ (Wᵀ x) + V (Ẇᵀ x)."""
        flat = x.reshape((-1,))
        moved = tangent["V"] @ (factors["W"].T @ flat)
        if self.learn_projection:
            moved = moved + factors["V"] @ (tangent["W"].T @ flat)
        return moved.reshape(x.shape)

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return I + V Wᵀ."""
        return identity(backend, size_of(shape), factors["V"]) + factors["V"] @ factors["W"].T

    def describe(self, shape: Shape) -> str:
        """Return the report text."""
        return f"low-rank (r = {self.factor_shapes(shape)['V'][1]})"
