"""What inner solvers minimise, how they are watched, and what they report.

The inner problem is: minimise m(−U(f) x) over the factors f of all blocks, starting from given factors.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llqr.backend import Array, Backend, Tensors
from llqr.quadratic import QuadraticModel
from llqr.structures.base import Factors
from llqr.structures.blocks import Block, BlockFactors


class Status(enum.IntEnum):
    """Why a solver stopped. Values above ``CONVERGED`` mean that something went wrong."""

    RUNNING = 0
    FINISHED = 1
    CONVERGED = 2
    OBJECTIVE_ROSE = 3
    NOT_FINITE = 4
    NEGATIVE_CURVATURE = 5

    @property
    def advice(self) -> str:
        """What happened and what to do about it."""
        return _ADVICE[self]


_ADVICE = {
    Status.RUNNING: "the solver has not been run",
    Status.FINISHED: "all inner steps were taken",
    Status.CONVERGED: "the gradient in the factors vanished before the last step",
    Status.OBJECTIVE_ROSE: "the objective rose above its starting value, so the best factors so far were "
    "kept; lower the inner learning rate, clip the inner gradient or use conjugate gradient",
    Status.NOT_FINITE: "the objective or the factors became NaN or infinite, so the last good factors were "
    "kept; lower the inner learning rate or check the curvature batch for non-finite values",
    Status.NEGATIVE_CURVATURE: "the curvature is not positive along a search direction, so the last good "
    "factors were kept; raise the damping or use a Fisher instead of the Hessian",
}


class SolverResult(NamedTuple):
    """Outcome of an inner solve; arrays, so that it can live inside a compiled step.

    Attributes:
        factors: the factors to use, always finite.
        status: a :class:`Status` as a 0-d integer.
        objective_start: m at the initial factors.
        objective: m at ``factors``.
        steps: inner steps taken.
        products: curvature-vector products spent (Gram matrices count their directions).
        rises: evaluations at which the objective was above the previous one.
        block_finite: by block, were the last tried factors finite.
    """

    factors: BlockFactors
    status: Array
    objective_start: Array
    objective: Array
    steps: Array
    products: Array
    rises: Array
    block_finite: dict[str, Array]

    def describe(self) -> str:
        """Return one readable sentence; only outside of compiled code."""
        status = Status(int(self.status))
        bad = [name for name, finite in self.block_finite.items() if not bool(finite)]
        where = f" in block(s) {', '.join(bad)}" if bad else ""
        return (
            f"{status.name}{where}: {status.advice} (objective {float(self.objective_start):.6g} → "
            f"{float(self.objective):.6g}, {int(self.steps)} steps, {int(self.products)} products, "
            f"{int(self.rises)} rises)"
        )


@dataclass(frozen=True)
class FactorProblem:
    """m(−U(f) x) as a function of the factors.

    Attributes:
        backend: array operations.
        model: the quadratic model m.
        blocks: the blocks of the network.
        sources: the vectors structures act on, by source name.
    """

    backend: Backend
    model: QuadraticModel
    blocks: Sequence[Block]
    sources: Mapping[str, Tensors]

    def inputs(self) -> dict[str, Array]:
        """Return every block's input x."""
        return {block.name: block.gather(self.backend, self.sources) for block in self.blocks}

    @property
    def linear_in_factors(self) -> bool:
        """Is m quadratic in all factors."""
        return all(block.structure.linear_in_factors for block in self.blocks)

    def step(self, inputs: dict[str, Array], factors: BlockFactors) -> Tensors:
        """Return δ = −U(f) x."""
        return self._assemble(
            lambda block: block.structure.apply(
                self.backend, factors[block.name], inputs[block.name]
            )
        )

    def step_tangent(
        self, inputs: dict[str, Array], factors: BlockFactors, tangent: BlockFactors
    ) -> Tensors:
        """Return the derivative of δ in the factors along ``tangent``."""
        return self._assemble(
            lambda block: block.structure.pushforward(
                self.backend, factors[block.name], tangent[block.name], inputs[block.name]
            )
        )

    def _assemble(self, block_value: Any) -> Tensors:
        result: Tensors = {}
        for block in self.blocks:
            result.update(block.split(-block_value(block)))
        return result

    def gradient(
        self, inputs: dict[str, Array], factors: BlockFactors, residual: Tensors
    ) -> BlockFactors:
        """Return the gradient of m in the factors from its gradient r in the step."""
        return {
            block.name: block.structure.pullback(
                self.backend,
                factors[block.name],
                inputs[block.name],
                -block.join(self.backend, residual),
            )
            for block in self.blocks
        }

    def evaluate(
        self, inputs: dict[str, Array], factors: BlockFactors
    ) -> tuple[Array, BlockFactors, Tensors]:
        """Return m, its gradient in the factors, and r; one curvature-vector product."""
        step = self.step(inputs, factors)
        residual = self.model.residual(step)
        return (
            self.model.value(step, residual),
            self.gradient(inputs, factors, residual),
            residual,
        )

    def project(self, factors: BlockFactors) -> BlockFactors:
        """Return the nearest admissible factors."""
        return {
            block.name: block.structure.project(self.backend, factors[block.name])
            for block in self.blocks
        }

    @property
    def projects(self) -> bool:
        """Does any structure bound its factors."""
        return any(getattr(block.structure, "floor", None) is not None for block in self.blocks)

    def finite_blocks(self, factors: BlockFactors) -> dict[str, Array]:
        """Return, per block, whether all its factors are finite."""
        return {name: _finite(self.backend, value) for name, value in factors.items()}


def _finite(backend: Backend, factors: Factors) -> Array:
    flags = [backend.isfinite(value) for value in factors.values()]
    result = flags[0]
    for flag in flags[1:]:
        result = result & flag
    return result


def all_true(flags: Mapping[str, Array]) -> Array:
    """Return the conjunction of 0-d booleans."""
    values = list(flags.values())
    result = values[0]
    for flag in values[1:]:
        result = result & flag
    return result


@dataclass(frozen=True, kw_only=True)
class AbstractInnerSolver(abc.ABC):
    """Minimises m(−U(f) x) over the factors."""

    @abc.abstractmethod
    def solve(self, problem: FactorProblem, factors: BlockFactors) -> SolverResult:
        """Improve the factors.

        Args:
            problem: the inner problem.
            factors: where to start; must be finite.

        Returns:
            The result; its factors are finite and, unless the solver was told otherwise, have an
            objective no higher than the initial one.
        """

    def check(self, blocks: Sequence[Block]) -> None:  # noqa: B027 - most solvers serve all blocks
        """Raise if this solver cannot serve these blocks.

        Raises:
            ValueError: naming the block and the remedy.
        """


def map_factors(function: Any, *operands: BlockFactors) -> BlockFactors:
    """Apply a function factor by factor; all operands have the structure of the first."""
    return {
        block: {name: function(*(operand[block][name] for operand in operands)) for name in factors}
        for block, factors in operands[0].items()
    }


def dot_factors(x: BlockFactors, y: BlockFactors) -> Array:
    """Return the inner product over all factors, a 0-d array."""
    total = 0.0
    for block, factors in x.items():
        for name, value in factors.items():
            total = total + (value * y[block][name]).sum()
    return total
