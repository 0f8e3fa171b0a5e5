"""The inner problem: minimise f ↦ m(−U(f) x) over the factors f of all blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llqr import tensors
from llqr.backend import Array, Backend, Tensors
from llqr.quadratic import QuadraticModel
from llqr.structures.blocks import Block, BlockFactors


@dataclass(frozen=True)
class FactorProblem:
    """m(−U(f) x) as a function of the factors.

    Attributes:
        backend: array operations.
        model: the quadratic model m.
        blocks: the blocks of the network.
        sources: the vectors structures act on, by source name.
        ridge: ρ from the last fit, for a solver that adapts it.
        partly_unseen: sources that have not seen all of the model's batch (:mod:`llqr.holdout`), for a
            solver that judges by the loss; None for none.
        half_gradient: gradient of every second example of the model's batch, for a solver that asks how
            noisy the model's own gradient is; None for none.
    """

    backend: Backend
    model: QuadraticModel
    blocks: Sequence[Block]
    sources: Mapping[str, Tensors]
    ridge: Array | None = None
    partly_unseen: Mapping[str, Tensors] | None = None
    half_gradient: Tensors | None = None

    def inputs(self) -> dict[str, Array]:
        """Return −x for every block: U is linear, so δ = U(f) (−x) needs no negation later on."""
        return self._negated(self.sources)

    def partly_unseen_inputs(self) -> dict[str, Array] | None:
        """Return −x of the sources that have not seen the whole batch, None if there are none."""
        return None if self.partly_unseen is None else self._negated(self.partly_unseen)

    def _negated(self, sources: Mapping[str, Tensors]) -> dict[str, Array]:
        return {block.name: -block.gather(self.backend, sources) for block in self.blocks}

    @property
    def linear_in_factors(self) -> bool:
        """Is m quadratic in all factors."""
        return all(block.structure.linear_in_factors for block in self.blocks)

    @property
    def bounded(self) -> bool:
        """Does any structure bound its factors."""
        return any(block.structure.bounded for block in self.blocks)

    def normalised(self) -> tuple[FactorProblem, Array]:
        """Return the problem in units of σ = max(‖g‖, ‖x‖), and σ²: m(−U(f) x) = σ² m'(−U(f) x / σ).

        The factors mean the same in both. Squares of small gradients (1e-10 per entry is common late
        in training) would underflow float32; in these units they do not. In units of ‖g‖ alone an update
        that does not shrink with the gradient, such as Adam's, would overflow.
        """
        backend = self.backend
        needed = sorted({name for block in self.blocks for name in block.sources})
        norm = tensors.norm(backend, self.model.gradient)
        for name in needed:
            norm = backend.maximum(norm, tensors.norm(backend, self.sources[name]))
        usable = backend.isfinite(norm) & (norm > 0.0)
        unit = backend.where(usable, norm, backend.ones((), norm))

        def divided(x: Tensors) -> Tensors:
            return {name: value * backend.asarray(1.0 / unit, value) for name, value in x.items()}

        scaled = replace(
            self,
            model=replace(self.model, gradient=divided(self.model.gradient)),
            sources={name: divided(self.sources[name]) for name in needed},
        )
        return scaled, unit * unit

    def step(self, inputs: dict[str, Array], factors: BlockFactors) -> Tensors:
        """Return δ = −U(f) x; ``inputs`` as :meth:`inputs` gives them."""
        result: Tensors = {}
        for block in self.blocks:
            own = factors[block.name]
            result.update(block.split(block.structure.apply(self.backend, own, inputs[block.name])))
        return result

    def step_tangent(
        self, inputs: dict[str, Array], factors: BlockFactors, tangent: BlockFactors
    ) -> Tensors:
        """Return the derivative of δ in the factors along ``tangent``."""
        result: Tensors = {}
        for block in self.blocks:
            result.update(self.block_tangent(block, inputs, factors, tangent))
        return result

    def block_tangent(
        self,
        block: Block,
        inputs: dict[str, Array],
        factors: BlockFactors,
        tangent: BlockFactors,
    ) -> Tensors:
        """Return the part of :meth:`step_tangent` that one block moves."""
        own, along = factors[block.name], tangent[block.name]
        return block.split(
            block.structure.pushforward(self.backend, own, along, inputs[block.name])
        )

    def gradient(
        self, inputs: dict[str, Array], factors: BlockFactors, residual: Tensors
    ) -> BlockFactors:
        """Return the gradient of m in the factors from its gradient r in the step."""
        return {
            block.name: block.structure.pullback(
                self.backend,
                factors[block.name],
                inputs[block.name],
                block.join(self.backend, residual),
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

    def bad_block(self, factors: BlockFactors) -> Array:
        """Return the first block with a factor whose norm is not finite; see :meth:`first_owner`."""
        owners, values = self.owned(factors)
        return self.first_owner(self.backend.norms(values) < float("inf"), owners)

    def owned(self, factors: BlockFactors) -> tuple[Sequence[int], Sequence[Array]]:
        """Return the factors block by block, and the index of the block that each of them is of."""
        pairs = [
            (i, x) for i, block in enumerate(self.blocks) for x in factors[block.name].values()
        ]
        owners, values = zip(*pairs, strict=True)
        return owners, values

    def first_owner(self, finite: Array, owners: Sequence[int]) -> Array:
        """Return the index of the first block that owns something not finite, −1 if none does.

        Args:
            finite: booleans [n].
            owners: the index of the block that each of them is of.
        """
        backend, nobody = self.backend, len(self.blocks)
        index = backend.integer(np.asarray(owners), finite)
        first = backend.where(finite, 0 * index + nobody, index).min()
        return backend.where(first < nobody, first, 0 * first - 1)


def first_factor(factors: BlockFactors) -> Array:
    """Return some factor, for its dtype and device."""
    return next(iter(next(iter(factors.values())).values()))


def map_factors(function: Callable[..., Array], *operands: BlockFactors) -> BlockFactors:
    """Apply a function factor by factor; all operands have the structure of the first."""
    return {
        block: {name: function(*(operand[block][name] for operand in operands)) for name in factors}
        for block, factors in operands[0].items()
    }


def dot_factors(backend: Backend, x: BlockFactors, y: BlockFactors) -> Array:
    """Return the inner product over all factors, a 0-d array."""
    pairs = [(value, y[block][name]) for block, own in x.items() for name, value in own.items()]
    left, right = zip(*pairs, strict=True)
    return backend.dots(left, right).sum()
