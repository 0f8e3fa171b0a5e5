"""The linear system of the direct solve: one direction per factor, and the model along them.

With δ = −Σ_j s_j d_j, where d_j = U(e_j) x, the quadratic model is m(s) = ½ sᵀHs − sᵀr,

    H_jk = ⟨d_j, (C + λI) d_k⟩,   r_j = ⟨d_j, g⟩.

For the Gauss-Newton family H needs forward products only (t_j = J d_j, then t_jᵀ M t_k); otherwise one
curvature-vector product per direction. All directions are taken at unit length, so they may differ by any
orders of magnitude: the unknowns are x_j = ‖d_j‖ s_j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from llqr.backend import Array, Backend, Tensors
from llqr.directions import Directions, joined
from llqr.solvers.packing import FactorPacking
from llqr.solvers.problem import FactorProblem
from llqr.solvers.quadratic_program import minimise
from llqr.structures.base import identity, layer_of
from llqr.structures.blocks import Block, BlockFactors


@dataclass(frozen=True)
class DirectSystem:
    """H and r for directions of unit length.

    Attributes:
        problem: the inner problem it belongs to.
        packing: the order of the unknowns.
        start: the factors before the solve, as s [n].
        lowest: the least s [n], −∞ where there is none.
        lengths: ‖d_j‖ [n].
        matrix: H [n, n], without a ridge.
        right: r [n].
        kinds: [n, kinds], what makes x of a source alone: ‖d_j‖ where d_j belongs to it and else 0.
        weights: D [n] of the ridge (:mod:`llqr.ridge`).
        half_right: r_A [n], of every second example of the batch; None if unknown.
    """

    problem: FactorProblem
    packing: FactorPacking
    start: Array
    lowest: Array
    lengths: Array
    matrix: Array
    right: Array
    kinds: Array
    weights: Array
    half_right: Array | None = None

    def ridged(self, ridge: Array | float) -> Array:
        """Return H + ρ D."""
        return _ridged(self.problem.backend, self.matrix, ridge, self.weights)

    def pulled_together(self, ridge: Array | float, relative_cutoff: float) -> DirectSystem:
        """Return the system whose ridge pulls to one step size per kind of direction, not to zero.

        Args:
            ridge: ρ, of both systems (:mod:`llqr.ridge` has the formula).
            relative_cutoff: see :func:`llqr.solvers.quadratic_program.minimise`.
        """
        backend, kinds = self.problem.backend, self.kinds
        lumped = kinds.T @ (self.matrix @ kinds)
        nothing = backend.zeros((kinds.shape[1],), self.right)
        common, _ = minimise(
            backend,
            _ridged(backend, lumped, ridge, lumped.diagonal()),
            kinds.T @ self.right,
            nothing,
            relative_cutoff=relative_cutoff,
            lower=nothing if self.problem.bounded else None,
        )
        target = kinds @ backend.where(backend.isfinite(common), common, nothing)
        pull = ridge * (self.weights * target)
        return replace(self, right=self.right + pull)

    def noise(self) -> Array | None:
        """Return ν, the share of noise in r; None if r_A is unknown."""
        if self.half_right is None:
            return None
        backend = self.problem.backend
        diagonal = self.matrix.diagonal()
        curved, ones = diagonal > 0.0, backend.ones(diagonal.shape, diagonal)
        weights = backend.where(curved, 1.0 / backend.where(curved, diagonal, ones), 0.0 * ones)
        change = self.half_right - self.right
        noise, whole = (weights * change * change).sum(), (weights * self.right * self.right).sum()
        one = backend.ones((), noise)
        some, nothing = whole > 0.0, backend.where(noise > 0.0, one, 0.0 * one)
        return backend.where(some, noise / backend.where(some, whole, one), nothing)

    def along(self) -> dict[str, tuple[Array, Array]]:
        """Return ⟨x, g⟩ and ⟨x, (C + λI) x⟩ for every source x that all blocks have."""
        slopes = self.kinds.T @ self.right
        curvatures = _curvatures(self.problem.backend, self.matrix, self.kinds)
        return {
            name: (slopes[index], curvatures[index])
            for index, name in enumerate(_sources(self.problem.blocks))
            if all(name in block.structure.sources for block in self.problem.blocks)
        }

    def objective(self, matrix: Array, coefficients: Array) -> Array:
        """Return ½ xᵀHx − xᵀr at s [n], for this H or one with a ridge."""
        x = self.lengths * coefficients
        return 0.5 * (x * (matrix @ x)).sum() - (x * self.right).sum()

    def coefficients(self, unknowns: Array) -> Array:
        """Return the admissible s [n] of x [n]; directions that vanish keep the factor they had."""
        backend, absent = self.problem.backend, self.lengths == 0.0
        units = backend.where(absent, backend.ones(absent.shape, self.lengths), self.lengths)
        return backend.maximum(backend.where(absent, self.start, unknowns / units), self.lowest)

    def lower_bounds(self) -> Array | None:
        """Return the least x [n], −∞ where there is none; None if no structure bounds its factors."""
        if not self.problem.bounded:
            return None
        backend, lengths = self.problem.backend, self.lengths
        nowhere = backend.zeros(lengths.shape, lengths) - float("inf")
        # 0 · ∞ is not a number, and a direction without length has no bound to meet.
        present = lengths > 0.0
        return backend.where(present, backend.where(present, lengths, 1.0) * self.lowest, nowhere)

    def bad_block(self, coefficients: Array) -> Array:
        """Return the first block whose part of s [n] is not finite, −1 if there is none."""
        owners = _owners(self.problem.blocks).tolist()
        return self.problem.first_owner(abs(coefficients) < float("inf"), owners)


def assemble(
    problem: FactorProblem, factors: BlockFactors, mean_share: float = 0.0
) -> DirectSystem:
    """Return the system of a problem whose blocks all have few factors.

    Args:
        problem: the inner problem.
        factors: where the solve starts.
        mean_share: τ ≥ 0.
    """
    backend, inputs, blocks, model = (
        problem.backend,
        problem.inputs(),
        problem.blocks,
        problem.model,
    )
    packing = FactorPacking(backend, {block.name: factors[block.name] for block in blocks})
    start = packing.join(factors)
    n = start.shape[0]
    nowhere = packing.split(backend.zeros((n,), start) - float("inf"))
    products = _inner_products(backend, blocks, inputs, start)
    lengths = backend.sqrt(products.diagonal())
    safe = backend.where(lengths == 0.0, backend.ones((n,), start), lengths)
    scale = backend.where(lengths == 0.0, lengths, 1.0 / safe)

    directions = _directions(problem, inputs, factors, scale)

    def pulled(residual: Tensors) -> Array:
        gradient = problem.gradient(inputs, factors, residual)
        return -scale * packing.join(gradient)

    if model.gram is not None:
        gram = backend.asarray(model.gram(directions), scale)
        matrix = gram + model.damping * products * scale * scale.reshape((-1, 1))
    else:
        combine = joined(directions).combine
        rows = identity(backend, n, scale)
        matrix = backend.map(lambda row: pulled(model.product(combine(row))), rows)
    matrix = 0.5 * (matrix + matrix.T)
    table = _table(backend, blocks, lengths)
    kinds = lengths.reshape((-1, 1)) * table
    return DirectSystem(
        problem=problem,
        packing=packing,
        start=start,
        lowest=packing.join(problem.project(nowhere)),
        lengths=lengths,
        matrix=matrix,
        right=pulled(model.gradient),
        kinds=kinds,
        weights=_weights(backend, matrix, kinds, table, mean_share),
        half_right=None if problem.half_gradient is None else pulled(problem.half_gradient),
    )


def _directions(
    problem: FactorProblem, inputs: dict[str, Array], factors: BlockFactors, scale: Array
) -> list[Directions]:
    """Return c_j d_j of all unknowns, c = ``scale`` [n], one group per layer.

    The tensors of a layer lie at one depth, so products along them share nearly all of their cost.
    """

    def of(block: Block, own: Array) -> Directions:
        packing = FactorPacking(problem.backend, {block.name: factors[block.name]})

        def combine(coefficients: Array) -> Tensors:
            # δ = −U x, and d is U x.
            tangent = packing.split(coefficients * -own)
            return problem.block_tangent(block, inputs, factors, tangent)

        return Directions(count=own.shape[0], combine=combine)

    ends = [int(end) for end in np.cumsum(np.bincount(_owners(problem.blocks)))]
    blocks = zip(problem.blocks, [0, *ends[:-1]], ends, strict=True)
    return [
        joined([of(block, scale[start:end]) for block, start, end in of_layer])
        for _, of_layer in groupby(blocks, lambda place: layer_of(place[0].name))
    ]


def _ridged(backend: Backend, matrix: Array, ridge: Array | float, weights: Array) -> Array:
    """Return H + ρ D for the diagonal ``weights`` of D."""
    return matrix + ridge * (identity(backend, matrix.shape[0], matrix) * weights)


def _weights(
    backend: Backend, matrix: Array, kinds: Array, table: Array, mean_share: float
) -> Array:
    """Return D [n]: H_jj + τ h̄, h̄ ≥ 0 the curvature per squared length along all of d_j's kind."""
    diagonal = matrix.diagonal()
    if mean_share == 0.0:
        return diagonal
    curvatures = _curvatures(backend, matrix, kinds)
    squares = backend.einsum("ij,ij->j", kinds, kinds)
    convex, ones = curvatures > 0.0, backend.ones(squares.shape, squares)
    curvatures = backend.where(convex, curvatures, 0.0 * ones)
    means = curvatures / backend.where(convex, squares, ones)
    return diagonal + mean_share * (table @ means)


def _curvatures(backend: Backend, matrix: Array, kinds: Array) -> Array:
    """Return ⟨x, (C + λI) x⟩ of every source x, [kinds]."""
    return backend.einsum("ij,ij->j", kinds, matrix @ kinds)


def _sources(blocks: Sequence[Block]) -> list[str]:
    """Return the kinds of directions there are, in the order of their columns."""
    return sorted({name for block in blocks for name in block.structure.sources})


def _table(backend: Backend, blocks: Sequence[Block], like: Array) -> Array:
    """Return [n, kinds]: 1 where a direction is of a kind, else 0."""
    kinds = _sources(blocks)
    names = [name for block in blocks for name in block.structure.sources]
    table = np.array([[name == kind for kind in kinds] for name in names], float)
    return backend.asarray(table, like)


def _owners(blocks: Sequence[Block]) -> np.ndarray:
    """Return the index of the block that each unknown is of, [n]."""
    sizes = [block.structure.factor_count(block.block_shape) for block in blocks]
    return np.repeat(np.arange(len(sizes)), sizes)


def _inner_products(
    backend: Backend, blocks: Sequence[Block], inputs: dict[str, Array], like: Array
) -> Array:
    """Return [n, n] of ⟨d_j, d_k⟩: block-diagonal, since blocks own disjoint parameters."""
    owners = _owners(blocks)
    # The directions of a scalar or span are the rows of its (stacked) input.
    directions = [
        row
        for block, size in zip(blocks, np.bincount(owners), strict=True)
        for row in inputs[block.name].reshape((int(size), -1))
    ]
    same = owners[:, None] == owners
    rows, columns = np.nonzero(np.triu(same))
    left, right = [directions[j] for j in rows], [directions[k] for k in columns]
    # Where in that list the product of j and k is; anywhere for those of two blocks.
    places = np.zeros(same.shape, int)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    found = backend.dots(left, right)[backend.integer(places, like)]
    return backend.where(backend.asarray(same, like) > 0.0, found, 0.0 * found)
