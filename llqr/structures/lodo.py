"""LODO's structure: a learned product of permutations and small blocks, made symmetric.

    U x = [G̃ᵀ G̃ pad(x)]_{1..n},   G̃ = B_depth P_depth … B_1 P_1

P_i are fixed random permutations of width w = 2n rounded up to a multiple of the block size b, B_i are
block-diagonal. The blocks start random orthogonal, so that G̃ᵀG̃ = I and U is the identity.

Memory: depth · w · b numbers, so 128 n with the defaults (plus 4 · depth · w bytes of indices). Cost of U x:
2 · depth · w · b products. Source: "Learning to Optimize Quasi-Newton Methods" (arXiv 2210.06171). There the
blocks are learned on the hypergradient (:mod:`llqr.relatives.lodo`), here on the quadratic model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from llqr._checks import check_positive_int
from llqr.backend import Array, Backend
from llqr.structures.base import AbstractStructure, Factors, Shape, identity, layer_of, size_of
from llqr.structures.block_product import BlockProduct, orthogonal_blocks
from llqr.structures.elementwise import Diagonal

NETWORK = "network"
"""Name of the block that holds every parameter."""


@dataclass(frozen=True, kw_only=True)
class LODO(AbstractStructure):
    """U x = [G̃ᵀ G̃ pad(x)]_{1..n} on parameters joined into one vector.

    Attributes:
        depth: number of factors B_i P_i (the paper: 16).
        block_size: b, rows of the square blocks (the paper: 4).
        symmetric: learn both sides of G̃ᵀ G̃. Off, the left one stays as it started, U = G̃₀ᵀ G̃.
        per: one U for the whole ``"network"`` (the paper), each ``"layer"`` or each ``"parameter"``.
        max_size: largest n that gets a G̃; larger blocks, and empty ones, get a diagonal.
        seed: of permutations and initial blocks.
    """

    layout: ClassVar[Literal["folded", "vector"]] = "vector"

    depth: int = 16
    block_size: int = 4  # b
    symmetric: bool = True
    per: Literal["network", "layer", "parameter"] = "network"
    max_size: int = 2**18
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("depth", "block_size", "max_size"):
            check_positive_int(name, getattr(self, name))
        if not isinstance(self.symmetric, bool):
            raise ValueError(
                f"symmetric must be True or False, got {self.symmetric!r}; pass a bool"
            )
        if self.per not in ("network", "layer", "parameter"):
            raise ValueError(
                f'per must be "network", "layer" or "parameter", got {self.per!r}; '
                'the paper uses per="network"'
            )

    def owner(self, name: str) -> str:
        """Return which block a parameter belongs to."""
        if self.per == "network":
            return NETWORK
        return layer_of(name) if self.per == "layer" else name

    @property
    def linear_in_factors(self) -> bool:
        """Of degree 2 · depth in the blocks."""
        return False

    def resolve(self, shape: Shape) -> AbstractStructure:
        """Fall back to a diagonal when n is 0 or above ``max_size``."""
        return self if 0 < size_of(shape) <= self.max_size else Diagonal()

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return ``{"B": (depth, w / b, b, b)}``."""
        count = -(-2 * size_of(shape) // self.block_size)
        return {"B": (self.depth, count, self.block_size, self.block_size)}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return random orthogonal blocks, the same in every framework."""
        return {"B": self._initial(backend, shape, like)}

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return U x."""
        product, left = self._products(backend, factors, x)
        return self._cut(left.transpose(product.apply(self._pad(backend, x))[0])[0], x)

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return the gradient of ⟨c, U x⟩ = ⟨G̃ c, G̃ x⟩ in the blocks: two passes over both vectors."""
        product, left = self._products(backend, factors, x)
        value, inputs = product.apply(self._pad(backend, x))
        other, others = left.apply(self._pad(backend, cotangent))
        gradient = product.pullback(inputs, product.transpose(other)[1])
        if self.symmetric:
            # What G̃ makes of the one vector is the cotangent of what it makes of the other.
            gradient = gradient + product.pullback(others, product.transpose(value)[1])
        return {"B": gradient}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return G̃̇ᵀ G̃ x + G̃ᵀ G̃̇ x."""
        product, left = self._products(backend, factors, x)
        value, moved = product.apply_tangent(tangent["B"], self._pad(backend, x))
        if not self.symmetric:
            return self._cut(left.transpose(moved)[0], x)
        return self._cut(product.transpose_tangent(tangent["B"], value, moved), x)

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return the n leading rows and columns of G̃ᵀ G̃."""
        rows = identity(backend, size_of(shape), factors["B"])
        return backend.stack([self.apply(backend, factors, row) for row in rows]).T

    def describe(self, shape: Shape) -> str:
        """Return the report text."""
        kind = "" if self.symmetric else ", left side fixed"
        return f"lodo (depth {self.depth}, {self.block_size} × {self.block_size} blocks{kind})"

    def _products(
        self, backend: Backend, factors: Factors, x: Array
    ) -> tuple[BlockProduct, BlockProduct]:
        """Return G̃, and what stands transposed to its left: itself, or its initial value."""
        product = BlockProduct(backend, factors["B"], self.seed)
        if self.symmetric:
            return product, product
        return product, BlockProduct(backend, self._initial(backend, x.shape, x), self.seed)

    def _initial(self, backend: Backend, shape: Shape, like: Array) -> Array:
        depth, count, size, _ = self.factor_shapes(shape)["B"]
        return backend.asarray(orthogonal_blocks(self.seed, depth, count * size, size), like)

    def _pad(self, backend: Backend, x: Array) -> Array:
        """Return the vector with zeros behind it, [w]."""
        width = self.factor_shapes(x.shape)["B"][1] * self.block_size
        return backend.concatenate([x, backend.zeros((width - x.shape[0],), x)])

    def _cut(self, value: Array, x: Array) -> Array:
        return value[: x.shape[0]]
