"""Direct solve for structures with few factors (scalar, span).

With one direction d_j = U(e_j) x per factor, δ = −Σ_j s_j d_j and m(s) = ½ sᵀ H s − sᵀ r, where

    H_jk = ⟨d_j, (C + λI) d_k⟩ (+ ρ H_jj for j = k),   r_j = ⟨d_j, g⟩,   s = H⁻¹ r.

For the Gauss-Newton family H needs forward products only (t_j = J d_j, then t_jᵀ M t_k); otherwise one
curvature-vector product per direction. All directions are taken at unit length, so they may differ by
any orders of magnitude. Directions that vanish keep the factor they had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llqr import tensors
from llqr._checks import check_fraction, check_not_negative
from llqr.backend import Array, Backend, Tensors
from llqr.ridge import AdaptiveRidge
from llqr.solvers.base import (
    AbstractInnerSolver,
    SolverResult,
    Status,
    all_true,
    code,
    rounding,
    share_of_way,
)
from llqr.solvers.problem import FactorProblem
from llqr.solvers.quadratic_program import minimise
from llqr.structures.base import identity
from llqr.structures.blocks import Block, BlockFactors


@dataclass(frozen=True, kw_only=True)
class DirectSolve(AbstractInnerSolver):
    """Solve for all factors of all blocks at once.

    Attributes:
        relative_ridge: ρ ≥ 0, adds this multiple of H's diagonal, or a rule that adapts ρ to the losses it
            leads to. The ridge belongs to the objective that is minimised and reported.
        relative_cutoff: eigenvalues of H, scaled to unit diagonal, below this fraction of the largest are
            treated as zero, in [0, 1); never finer than the dtype resolves. An eigenvalue below minus
            that fraction is negative curvature.
    """

    relative_ridge: float | AdaptiveRidge = 0.0  # ρ
    relative_cutoff: float = 1e-7

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not isinstance(self.relative_ridge, AdaptiveRidge):
            check_not_negative("relative_ridge", self.relative_ridge)
        check_fraction("relative_cutoff", self.relative_cutoff, 1e-7)

    @property
    def initial_ridge(self) -> float:
        """ρ before the first fit."""
        rule = self.relative_ridge
        return rule.initial if isinstance(rule, AdaptiveRidge) else float(rule)

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
        """Assemble H and r and solve; see :class:`AbstractInnerSolver`.

        While the step of an adaptive ridge raises the loss, the ridge grows and the system is solved again.

        Returns:
            The result, with the next ridge if that adapts.

        Raises:
            ValueError: if the ridge adapts and the model cannot evaluate the loss.
        """
        self.check(problem.blocks)
        backend, rule = problem.backend, self.relative_ridge
        system = self._system(problem, factors)
        if not isinstance(rule, AdaptiveRidge):
            return self._with_ridge(problem, factors, system, rule)
        loss_at = problem.model.loss
        if loss_at is None:
            raise ValueError(
                "an adaptive ridge needs model.loss to compare gain and promise, got None; "
                "supply it or use a constant relative_ridge"
            )
        ridge = problem.ridge
        if ridge is None:
            ridge = backend.asarray(rule.initial, system[0])
        lengths, matrix, right = system
        inputs = problem.inputs()
        before = loss_at(tensors.scale(0.0, problem.step(inputs, factors)))
        resolution = rounding(before) * abs(before)

        def is_bad(attempt: tuple[Array, Array, SolverResult]) -> Array:
            return attempt[1]

        def solved(attempt: tuple[Array, Array, SolverResult]) -> tuple[Array, Array, SolverResult]:
            used = attempt[0]
            result = self._with_ridge(problem, factors, system, used)
            after = loss_at(problem.step(inputs, result.factors))
            solution = lengths * _flatten(backend, problem.blocks, result.factors)
            promised = -_objective(matrix, right, solution)
            following, bad = rule.judged(backend, used, before - after, promised, resolution)
            return following, bad & (used < following), result

        # Only to give the loop's state its shape; nothing has been solved yet.
        start = _flatten(backend, problem.blocks, factors)
        yes = backend.integer(0, before) == 0
        nothing = self._result(problem, factors, start, (before, before), ~yes)
        first = (ridge, yes, nothing)
        ridge, _, result = backend.while_loop(is_bad, solved, first)
        return result._replace(ridge=ridge)

    def _with_ridge(
        self,
        problem: FactorProblem,
        factors: BlockFactors,
        system: tuple[Array, Array, Array],
        ridge: Array | float,
    ) -> SolverResult:
        """Return the result for H + ρ diag H."""
        backend, blocks = problem.backend, problem.blocks
        start = _flatten(backend, blocks, factors)
        lengths, matrix, right = system
        diagonal = identity(backend, start.shape[0], start) * backend.einsum("ii->i", matrix)
        matrix = matrix + ridge * diagonal
        solution, negative = minimise(
            backend,
            matrix,
            right,
            lengths * start,
            relative_cutoff=self.relative_cutoff,
            lower=self._bounds(problem, factors, lengths) if problem.bounded else None,
        )
        absent = lengths == 0.0
        units = backend.where(absent, backend.ones(lengths.shape, lengths), lengths)
        solution = backend.where(absent, start, solution / units)
        projected = _flatten(
            backend, blocks, problem.project(_unflatten(backend, blocks, factors, solution))
        )

        def objective(s: Array) -> Array:
            return _objective(matrix, right, lengths * s)

        if problem.bounded:
            # What rounding or an unfinished search left outside the bounds was clipped, which may lead
            # uphill: then go only the best part of the way.
            way = lengths * (projected - start)
            curved = matrix @ way
            slope = (curved * (lengths * start)).sum() - (way * right).sum()
            share = share_of_way(backend, slope, (way * curved).sum())
            uphill = objective(projected) > objective(start)
            between = start + share * (projected - start)
            projected = backend.where(uphill, between, projected)
        before, after = objective(start), objective(projected)
        return self._result(problem, factors, projected, (before, after), negative)

    def _bounds(self, problem: FactorProblem, factors: BlockFactors, lengths: Array) -> Array:
        """Return the lower bounds of the factors in units of the directions' lengths, −∞ for none."""
        backend, blocks = problem.backend, problem.blocks
        nowhere = backend.zeros(lengths.shape, lengths) - float("inf")
        lowest = problem.project(_unflatten(backend, blocks, factors, nowhere))
        # 0 · ∞ is not a number, and a direction without length has no bound to meet.
        present = lengths > 0.0
        return backend.where(
            present,
            backend.where(present, lengths, 1.0) * _flatten(backend, blocks, lowest),
            nowhere,
        )

    def _system(self, problem: FactorProblem, factors: BlockFactors) -> tuple[Array, Array, Array]:
        """Return the directions' lengths [n], and H [n, n] and r [n] for directions of unit length."""
        backend, inputs, blocks = problem.backend, problem.inputs(), problem.blocks
        like = _flatten(backend, blocks, factors)
        n = like.shape[0]
        products = _inner_products(backend, blocks, inputs, like)
        lengths = backend.sqrt(backend.einsum("ii->i", products))
        safe = backend.where(lengths == 0.0, backend.ones((n,), like), lengths)
        scale = backend.where(lengths == 0.0, lengths, 1.0 / safe)

        def directions(coefficients: Array) -> Tensors:
            tangent = _unflatten(backend, blocks, factors, coefficients * scale)
            return tensors.scale(-1.0, problem.step_tangent(inputs, factors, tangent))

        def pulled(residual: Tensors) -> Array:
            gradient = problem.gradient(inputs, factors, residual)
            return -scale * _flatten(backend, blocks, gradient)

        matrix = self._matrix(problem, directions, pulled, products * scale, scale)
        matrix = 0.5 * (matrix + matrix.T)
        return lengths, matrix, pulled(problem.model.gradient)

    def _matrix(
        self,
        problem: FactorProblem,
        directions: Callable[[Array], Tensors],
        pulled: Callable[[Tensors], Array],
        products: Array,
        scale: Array,
    ) -> Array:
        """Return H [n, n] without the ridge."""
        backend, model, n = problem.backend, problem.model, scale.shape[0]
        if model.gram is not None:
            gram = backend.asarray(model.gram(directions, n), scale)
            return gram + model.damping * products * scale.reshape((-1, 1))
        rows = identity(backend, n, scale)
        return backend.map(lambda row: pulled(model.product(directions(row))), rows)

    def _result(
        self,
        problem: FactorProblem,
        factors: BlockFactors,
        solution: Array,
        objectives: tuple[Array, Array],
        negative: Array,
    ) -> SolverResult:
        """Return the solution's factors if they are good, else the initial ones, and why."""
        backend, (before, after), n = problem.backend, objectives, solution.shape[0]
        result = _unflatten(backend, problem.blocks, factors, solution)
        block_finite = problem.finite_blocks(result)
        finite = backend.isfinite(after) & all_true(block_finite)
        rose = after > before + rounding(before) * abs(before)
        status = code(backend, Status.FINISHED, solution)
        status = backend.where(rose, code(backend, Status.OBJECTIVE_ROSE, solution), status)
        status = backend.where(negative, code(backend, Status.NEGATIVE_CURVATURE, solution), status)
        status = backend.where(finite, status, code(backend, Status.NOT_FINITE, solution))
        good = (status == int(Status.FINISHED)) & (after <= before)
        return SolverResult(
            factors=backend.select(good, result, factors),
            status=status,
            objective_start=before,
            objective=backend.where(good, after, before),
            steps=backend.integer(1, solution),
            products=backend.integer(n, solution),
            rises=backend.integer(0, solution),
            block_finite=block_finite,
        )


def _objective(matrix: Array, right: Array, solution: Array) -> Array:
    """Return ½ xᵀHx − xᵀr."""
    return 0.5 * (solution * (matrix @ solution)).sum() - (solution * right).sum()


def _flatten(backend: Backend, blocks: Sequence[Block], factors: BlockFactors) -> Array:
    return backend.concatenate(
        [value.reshape((-1,)) for block in blocks for value in factors[block.name].values()]
    )


def _unflatten(
    backend: Backend, blocks: Sequence[Block], like: BlockFactors, flat: Array
) -> BlockFactors:
    result: BlockFactors = {}
    start = 0
    for block in blocks:
        own = {}
        for name, value in like[block.name].items():
            size = int(np.prod(value.shape))
            part = flat[start : start + size].reshape(value.shape)
            own[name] = backend.asarray(part, value)
            start += size
        result[block.name] = own
    return result


def _inner_products(
    backend: Backend, blocks: Sequence[Block], inputs: dict[str, Array], like: Array
) -> Array:
    """Return [n, n] of ⟨d_j, d_k⟩: block-diagonal, since blocks own disjoint parameters."""
    sizes = [block.structure.factor_count(block.block_shape) for block in blocks]
    rows, start, total = [], 0, sum(sizes)
    for block, size in zip(blocks, sizes, strict=True):
        # The directions of a scalar or span are the rows of its (stacked) input.
        directions = inputs[block.name].reshape((size, -1))
        pieces = [
            backend.zeros((start, size), like),
            directions @ directions.T,
            backend.zeros((total - start - size, size), like),
        ]
        rows.append(backend.concatenate(pieces).T)
        start += size
    return backend.concatenate(rows)
