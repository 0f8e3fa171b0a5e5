"""Direct solve for structures with few factors (scalar, span).

With one direction d_j = U(e_j) x per factor, δ = −Σ_j s_j d_j and m(s) = ½ sᵀ H s − sᵀ r, where

    H_jk = ⟨d_j, (C + λI) d_k⟩,   r_j = ⟨d_j, g⟩,   s = (H + ρ diag H)⁻¹ r.

For the Gauss-Newton family H needs forward products only (t_j = J d_j, then t_jᵀ M t_k); otherwise one
curvature-vector product per direction. Directions that vanish keep the factor they had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llqr import tensors
from llqr.backend import Array, Backend, Tensors
from llqr.solvers.base import (
    AbstractInnerSolver,
    FactorProblem,
    SolverResult,
    Status,
    all_true,
)
from llqr.structures.blocks import Block, BlockFactors


@dataclass(frozen=True, kw_only=True)
class DirectSolve(AbstractInnerSolver):
    """Solve for all factors of all blocks at once.

    Attributes:
        relative_ridge: ρ ≥ 0, adds this multiple of H's diagonal; 1 is the learning-rate-free recipe.
        relative_cutoff: eigenvalues of the diagonally scaled H below this fraction of the largest are
            treated as zero, in [0, 1). An eigenvalue below minus that fraction is negative curvature.
    """

    relative_ridge: float = 0.0  # ρ
    relative_cutoff: float = 1e-7

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not 0.0 <= self.relative_ridge < float("inf"):
            raise ValueError(
                f"relative_ridge must be at least 0, got {self.relative_ridge!r}; try 0 or 1"
            )
        if not 0.0 <= self.relative_cutoff < 1.0:
            raise ValueError(
                f"relative_cutoff must lie in [0, 1), got {self.relative_cutoff!r}; try 1e-7"
            )

    def check(self, blocks: Sequence[Block]) -> None:
        """Raise unless every block has few factors.

        Raises:
            ValueError: naming the first block that has not.
        """
        for block in blocks:
            if not block.structure.few_factors:
                raise ValueError(
                    f"inner_solver DirectSolve needs Scalar or Span structures, but block "
                    f"{block.name!r} is {block.structure.describe(block.block_shape)}; use "
                    "ConjugateGradient there"
                )

    def solve(self, problem: FactorProblem, factors: BlockFactors) -> SolverResult:
        """Assemble H and r and solve; see :class:`AbstractInnerSolver`."""
        self.check(problem.blocks)
        backend, inputs = problem.backend, problem.inputs()
        start = _flatten(backend, problem.blocks, factors)
        n = start.shape[0]

        def directions(coefficients: Array) -> Tensors:
            tangent = _unflatten(problem.blocks, factors, coefficients)
            return tensors.scale(-1.0, problem.step_tangent(inputs, factors, tangent))

        matrix = self._matrix(problem, directions, factors, inputs, n, start)
        pulled = problem.gradient(inputs, factors, problem.model.gradient)
        right = -_flatten(backend, problem.blocks, pulled)
        solution, negative = self._solve_spd(backend, matrix, right, start)
        result = problem.project(_unflatten(problem.blocks, factors, solution))
        projected = _flatten(backend, problem.blocks, result)

        def objective(s: Array) -> Array:
            return 0.5 * (s * (matrix @ s)).sum() - (s * right).sum()

        before, after = objective(start), objective(projected)
        finite_blocks = problem.finite_blocks(result)
        finite = backend.isfinite(after) & all_true(finite_blocks)
        code = backend.integer(int(Status.FINISHED), start)
        code = backend.where(after <= before, code, backend.integer(3, start))
        code = backend.where(negative, backend.integer(5, start), code)
        code = backend.where(finite, code, backend.integer(4, start))
        good = code == int(Status.FINISHED)
        return SolverResult(
            factors=backend.select(good, result, factors),
            status=code,
            objective_start=before,
            objective=backend.where(good, after, before),
            steps=backend.integer(1, start),
            products=backend.integer(n, start),
            rises=backend.integer(0, start),
            block_finite=finite_blocks,
        )

    def _matrix(
        self,
        problem: FactorProblem,
        directions: object,
        factors: BlockFactors,
        inputs: dict[str, Array],
        n: int,
        like: Array,
    ) -> Array:
        """Return H [n, n]."""
        backend, model = problem.backend, problem.model
        if model.gram is not None:
            gram = backend.asarray(0.0, like) + model.gram(directions, n)  # type: ignore[arg-type]
            return gram + model.damping * _inner_products(backend, problem.blocks, inputs, like)

        def row(coefficients: Array) -> Array:
            curved = model.product(directions(coefficients))  # type: ignore[operator]
            pulled = problem.gradient(inputs, factors, curved)
            return -_flatten(backend, problem.blocks, pulled)

        return backend.map(row, backend.asarray(np.eye(n), like))

    def _solve_spd(
        self, backend: Backend, matrix: Array, right: Array, start: Array
    ) -> tuple[Array, Array]:
        """Return s and whether H has a clearly negative eigenvalue.

        H is scaled to unit diagonal first: directions may differ by many orders of magnitude.
        """
        diagonal = backend.einsum("ii->i", matrix)
        used = diagonal > 0.0
        safe = backend.where(used, diagonal, backend.ones(diagonal.shape, diagonal))
        scale = backend.where(used, 1.0 / backend.sqrt(safe), 0.0 * safe)
        scaled = matrix * scale.reshape((-1, 1)) * scale.reshape((1, -1))
        symmetric = 0.5 * (scaled + scaled.T)
        finite = backend.isfinite(symmetric)
        ridge = backend.asarray(np.eye(diagonal.shape[0]), like=diagonal) * self.relative_ridge
        values, vectors = backend.eigh(
            backend.where(finite, symmetric, 0.0 * safe.reshape((1, -1)) + 0.0) + ridge
        )
        largest = abs(values).max()
        keep = values > self.relative_cutoff * largest
        inverse = backend.where(
            keep, 1.0 / backend.where(keep, values, 1.0 + 0.0 * values), 0.0 * values
        )
        solution = scale * (vectors @ (inverse * (vectors.T @ (scale * right))))
        not_a_number = solution + float("nan")
        solution = backend.where(finite, solution, not_a_number)
        negative = (values.min() < -self.relative_cutoff * largest) | (diagonal.min() < 0.0)
        return backend.where(used, solution, start), negative & finite


def _flatten(backend: Backend, blocks: Sequence[Block], factors: BlockFactors) -> Array:
    return backend.concatenate(
        [value.reshape((-1,)) for block in blocks for value in factors[block.name].values()]
    )


def _unflatten(blocks: Sequence[Block], like: BlockFactors, flat: Array) -> BlockFactors:
    result: BlockFactors = {}
    start = 0
    for block in blocks:
        own = {}
        for name, value in like[block.name].items():
            size = int(np.prod(value.shape))
            own[name] = flat[start : start + size].reshape(value.shape)
            start += size
        result[block.name] = own
    return result


def _inner_products(
    backend: Backend, blocks: Sequence[Block], inputs: dict[str, Array], like: Array
) -> Array:
    """Return [n, n] of ⟨d_j, d_k⟩: block-diagonal, since blocks own disjoint parameters."""
    sizes = [block.structure.factor_shapes(block.block_shape)["s"][0] for block in blocks]
    rows, start, total = [], 0, sum(sizes)
    for block, size in zip(blocks, sizes, strict=True):
        x = inputs[block.name].reshape((size, -1))
        own = x @ x.T
        pieces = [
            backend.zeros((start, size), like),
            own,
            backend.zeros((total - start - size, size), like),
        ]
        rows.append(backend.concatenate(pieces).T)
        start += size
    return backend.concatenate(rows)
