"""A product of permutations and block-diagonal matrices: a dense matrix of width w from w·b·depth numbers.

    G̃ = B_depth P_depth … B_2 P_2 B_1 P_1

P_i are fixed random permutations and B_i block-diagonal with blocks of b × b numbers. After log_b w factors
every output depends on every input. Source: LODO (arXiv 2210.06171).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llqr.backend import Array, Backend


@lru_cache(maxsize=32)
def permutations(seed: int, depth: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return P_1 … P_depth and their inverses as index arrays [depth, width], int32.

    P_i x is ``x[indices[i - 1]]``.
    """
    generator = np.random.default_rng([seed, depth, width])
    forward = np.stack([generator.permutation(width) for _ in range(depth)])
    return forward.astype(np.int32), np.argsort(forward, axis=1).astype(np.int32)


def orthogonal_blocks(seed: int, depth: int, width: int, block: int) -> np.ndarray:
    """Return random orthogonal blocks [depth, width / block, block, block], float64."""
    generator = np.random.default_rng([seed, depth, width, block])
    normal = generator.standard_normal((depth, width // block, block, block))
    basis, triangle = np.linalg.qr(normal)
    # QR alone prefers some signs; with the diagonal of R positive, the distribution is uniform.
    signs = np.where(np.diagonal(triangle, axis1=-2, axis2=-1) < 0.0, -1.0, 1.0)
    return basis * signs[..., None, :]


class BlockProduct:
    """G̃ with given blocks, applied to rows: x stands for k vectors, [k, width].

    Args:
        backend: array operations.
        blocks: [depth, width / b, b, b].
        seed: of the permutations.
    """

    def __init__(self, backend: Backend, blocks: Array, seed: int) -> None:
        self._backend, self._blocks = backend, blocks
        self._depth, count, self._size = tuple(blocks.shape)[:3]
        forward, inverse = permutations(seed, self._depth, count * self._size)
        self._forward = backend.integer(forward, blocks)
        self._inverse = backend.integer(inverse, blocks)

    def apply(self, x: Array) -> tuple[Array, list[Array]]:
        """Return G̃ x, and what every B_i receives, [k, width / b, b] each."""
        inputs = []
        for index in range(self._depth):
            inputs.append(self._split(x[:, self._forward[index]]))
            x = self._times("cij,kcj->kci", index, inputs[-1])
        return x, inputs

    def transpose(self, z: Array) -> tuple[Array, list[Array]]:
        """Return G̃ᵀ z, and the cotangent of what every B_i puts out, [k, width / b, b] each."""
        cotangents: list[Array] = []
        for index in reversed(range(self._depth)):
            cotangents.append(self._split(z))
            z = self._times("cij,kci->kcj", index, cotangents[-1])[:, self._inverse[index]]
        return z, cotangents[::-1]

    def pullback(self, inputs: list[Array], cotangents: list[Array]) -> Array:
        """Return the gradient of Σ_k ⟨z_k, G̃ x_k⟩ in the blocks, from both passes."""
        return self._backend.stack(
            [
                self._backend.einsum("kci,kcj->cij", cotangent, value)
                for cotangent, value in zip(cotangents, inputs, strict=True)
            ]
        )

    def apply_tangent(self, tangent: Array, x: Array) -> tuple[Array, Array]:
        """Return G̃ x and its derivative along ``tangent``, blocks of the same shape."""
        moved = 0.0 * x
        for index in range(self._depth):
            value = self._split(x[:, self._forward[index]])
            change = self._split(moved[:, self._forward[index]])
            x = self._times("cij,kcj->kci", index, value)
            moved = self._times("cij,kcj->kci", index, change) + self._flat(
                self._backend.einsum("cij,kcj->kci", tangent[index], value)
            )
        return x, moved

    def transpose_tangent(self, tangent: Array, z: Array, z_tangent: Array) -> Array:
        """Return the derivative of G̃ᵀ z along ``tangent`` of the blocks and ``z_tangent`` of z."""
        for index in reversed(range(self._depth)):
            value, change = self._split(z), self._split(z_tangent)
            direct = self._backend.einsum("cij,kci->kcj", tangent[index], value)
            z_tangent = self._times("cij,kci->kcj", index, change) + self._flat(direct)
            z_tangent = z_tangent[:, self._inverse[index]]
            z = self._times("cij,kci->kcj", index, value)[:, self._inverse[index]]
        return z_tangent

    def _times(self, equation: str, index: int, value: Array) -> Array:
        return self._flat(self._backend.einsum(equation, self._blocks[index], value))

    def _split(self, x: Array) -> Array:
        return x.reshape((x.shape[0], -1, self._size))

    def _flat(self, value: Array) -> Array:
        return value.reshape((value.shape[0], -1))
