"""Direct solve for structures with few factors (scalar, span): s = (H + ρ diag H)⁻¹ r.

H and r are those of :mod:`llqr.solvers.direct_system`. The ridge ρ is a number, or follows the losses that
the steps lead to (:mod:`llqr.ridge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llqr._checks import check_fraction, check_not_negative
from llqr.backend import Array
from llqr.ridge import AdaptiveRidge
from llqr.solvers.base import (
    AbstractInnerSolver,
    SolverResult,
    Status,
    code,
    rounding,
)
from llqr.solvers.direct_system import DirectSystem, assemble
from llqr.solvers.problem import FactorProblem
from llqr.solvers.quadratic_program import minimise
from llqr.structures.blocks import Block, BlockFactors


@dataclass(frozen=True, kw_only=True)
class DirectSolve(AbstractInnerSolver):
    """Solve for all factors of all blocks at once.

    Attributes:
        relative_ridge: ρ ≥ 0, adds this multiple of H's diagonal, or a rule that adapts ρ to the losses it
            leads to and pulls to common step sizes. The ridge belongs to the objective that is minimised
            and reported.
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

    @property
    def judges_by_loss(self) -> bool:
        """Does the ridge adapt."""
        return isinstance(self.relative_ridge, AdaptiveRidge)

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

        While the step of an adaptive ridge raises the loss, or would if its direction had not seen the whole
        batch, the ridge grows and the system is solved again.

        Returns:
            The result, with the next ridge if that adapts.

        Raises:
            ValueError: if the ridge adapts and the model cannot evaluate the loss.
        """
        self.check(problem.blocks)
        rule = self.relative_ridge
        if isinstance(rule, AdaptiveRidge):
            return self._with_adapted_ridge(assemble(problem, factors, rule.mean_share), rule)
        return self._with_ridge(assemble(problem, factors), rule)[0]

    def _with_adapted_ridge(self, system: DirectSystem, rule: AdaptiveRidge) -> SolverResult:
        """Return the result for the first ridge whose step does not raise the loss."""
        problem = system.problem
        backend, loss_at, ridge = problem.backend, problem.model.loss, problem.ridge
        if loss_at is None:
            raise ValueError(
                "an adaptive ridge needs model.loss to compare gain and promise, got None; "
                "supply it or use a constant relative_ridge"
            )
        if ridge is None:
            ridge = backend.asarray(rule.initial, system.start)
        noise = system.noise()
        if noise is not None:
            ridge = rule.least(backend, ridge, noise)
        inputs, unseen = problem.inputs(), problem.partly_unseen_inputs()
        before = problem.model.initial_loss()
        resolution = rounding(before) * abs(before)

        def tried(used: Array) -> tuple[Array, Array, SolverResult]:
            pulled = system.pulled_together(used, self.relative_cutoff)
            result, coefficients = self._with_ridge(pulled, used)
            gain = before - loss_at(problem.step(inputs, result.factors))
            promised = -system.objective(system.matrix, coefficients)
            other = gain
            if unseen is not None:
                other = before - loss_at(problem.step(unseen, result.factors))
            following, bad = rule.judged(backend, used, (gain, other), promised, resolution)
            return following, bad & (used < following), result._replace(ridge=following)

        return backend.repeat(tried, ridge)._replace(noise=noise, along=system.along())

    def _with_ridge(self, system: DirectSystem, ridge: Array | float) -> tuple[SolverResult, Array]:
        """Return the solution if it is good, else the initial factors, and why; and those as s [n]."""
        problem, matrix = system.problem, system.ridged(ridge)
        backend, like = problem.backend, system.right
        unknowns, negative = minimise(
            backend,
            matrix,
            system.right,
            system.lengths * system.start,
            relative_cutoff=self.relative_cutoff,
            lower=system.lower_bounds(),
        )
        found = system.coefficients(unknowns)
        before = system.objective(matrix, system.start)
        after = system.objective(matrix, found)
        bad_block = system.bad_block(found)
        finite = backend.isfinite(after) & (bad_block < 0)
        rose = after > before + rounding(before) * abs(before)
        status = code(backend, Status.FINISHED, like)
        status = backend.where(rose, code(backend, Status.OBJECTIVE_ROSE, like), status)
        status = backend.where(negative, code(backend, Status.NEGATIVE_CURVATURE, like), status)
        status = backend.where(finite, status, code(backend, Status.NOT_FINITE, like))
        good = (status == int(Status.FINISHED)) & (after <= before)
        chosen = backend.where(good, found, system.start)
        result = SolverResult(
            factors=system.packing.split(chosen),
            status=status,
            objective_start=before,
            objective=backend.where(good, after, before),
            steps=backend.integer(1, like),
            products=backend.integer(like.shape[0], like),
            rises=backend.integer(0, like),
            bad_block=bad_block,
        )
        return result, chosen
