"""A product of permutations and block-diagonal matrices: a dense matrix of width w from w·b·depth numbers.

    G̃ = B_depth P_depth … B_2 P_2 B_1 P_1

P_i are fixed random permutations and B_i block-diagonal with blocks of b × b numbers. After log_b w factors
every output depends on every input. Source: LODO (arXiv 2210.06171).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from llqr.backend import Array, Backend

Pair = tuple[Array, Array]
"""A vector and its derivative."""


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


class _Steps(NamedTuple):
    """What a scan does at a factor: (state, (blocks [w / b, b, b], …, order [w])) ↦ (state, output)."""

    forward: Callable
    backward: Callable
    forward_tangent: Callable
    backward_tangent: Callable


@lru_cache(maxsize=16)
def _steps(backend: Backend) -> _Steps:
    """Return the steps: the same functions for a backend every time, so that JAX traces each of them once."""

    def times(blocks: Array, value: Array) -> Array:
        return backend.einsum("cij,cj->ci", blocks, value).reshape((-1,))

    def transposed(blocks: Array, value: Array) -> Array:
        return backend.einsum("cij,ci->cj", blocks, value).reshape((-1,))

    def split(x: Array, blocks: Array) -> Array:
        return x.reshape(tuple(blocks.shape)[:2])

    def forward(x: Array, rows: tuple[Array, ...]) -> tuple[Array, Array]:
        blocks, order = rows
        value = split(x[order], blocks)
        return times(blocks, value), value

    def backward(z: Array, rows: tuple[Array, ...]) -> tuple[Array, Array]:
        blocks, order = rows
        value = split(z, blocks)
        return transposed(blocks, value)[order], value

    def forward_tangent(pair: Pair, rows: tuple[Array, ...]) -> tuple[Pair, None]:
        blocks, tangent, order = rows
        value, change = (split(each[order], blocks) for each in pair)
        return (times(blocks, value), times(blocks, change) + times(tangent, value)), None

    def backward_tangent(pair: Pair, rows: tuple[Array, ...]) -> tuple[Pair, None]:
        blocks, tangent, order = rows
        value, change = (split(each, blocks) for each in pair)
        moved = transposed(blocks, change) + transposed(tangent, value)
        return (transposed(blocks, value)[order], moved[order]), None

    return _Steps(forward, backward, forward_tangent, backward_tangent)


class BlockProduct:
    """G̃ with given blocks, applied to vectors [w].

    The factors are visited by a scan, so that a compiler sees one of them and not ``depth``. Vectors come one
    at a time: XLA makes a sum of products of small blocks with one vector each, and a loop over blocks, a
    hundred times slower on a CPU, of their products with several vectors.

    Args:
        backend: array operations.
        blocks: [depth, w / b, b, b].
        seed: of the permutations.
    """

    def __init__(self, backend: Backend, blocks: Array, seed: int) -> None:
        self._backend, self._blocks, self._steps = backend, blocks, _steps(backend)
        depth, count, size = tuple(blocks.shape)[:3]
        forward, inverse = permutations(seed, depth, count * size)
        self._forward = backend.integer(forward, blocks)
        self._inverse = backend.integer(inverse, blocks)

    def apply(self, x: Array) -> tuple[Array, Array]:
        """Return G̃ x, and what the B_i receive, [depth, w / b, b]."""
        return self._backend.scan(self._steps.forward, x, (self._blocks, self._forward))

    def transpose(self, z: Array) -> tuple[Array, Array]:
        """Return G̃ᵀ z, and the cotangents of what the B_i put out, [depth, w / b, b]."""
        rows = (self._blocks, self._inverse)
        return self._backend.scan(self._steps.backward, z, rows, reverse=True)

    def pullback(self, inputs: Array, cotangents: Array) -> Array:
        """Return the gradient of ⟨z, G̃ x⟩ in the blocks, from what both passes returned."""
        return self._backend.einsum("dci,dcj->dcij", cotangents, inputs)

    def apply_tangent(self, tangent: Array, x: Array) -> Pair:
        """Return G̃ x and its derivative along ``tangent``, blocks of the same shape."""
        rows = (self._blocks, tangent, self._forward)
        return self._backend.scan(self._steps.forward_tangent, (x, 0.0 * x), rows)[0]

    def transpose_tangent(self, tangent: Array, z: Array, z_tangent: Array) -> Array:
        """Return the derivative of G̃ᵀ z along ``tangent`` of the blocks and ``z_tangent`` of z."""
        rows = (self._blocks, tangent, self._inverse)
        step = self._steps.backward_tangent
        return self._backend.scan(step, (z, z_tangent), rows, reverse=True)[0][1]
