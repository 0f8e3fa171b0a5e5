"""LODO: a preconditioner learned while it is used, on the loss its own last step led to.

    m ← β m + (1 − β) g
    θ ← θ − α₀ U(f) m
    f ← Adam(f, h),   h = ∂L(θ − α₀ U(f) m)/∂f = −α₀ pullback of ∇L at the new θ

The gradient at the new point is computed anyway, so h costs one pullback through U and no further pass
through the network. With :class:`llqr.structures.LODO` (the default) U is G̃ᵀG̃; any other structure of LLQR
can be learned the same way, :class:`llqr.structures.Diagonal` being the paper's diagonal ablation.

Source: "Learning to Optimize Quasi-Newton Methods" (arXiv 2210.06171).
Memory: momentum, and three numbers (factor and two moments) per factor entry: (1 + 3 · 128) n by default.
Cost per step: one pullback and one product with U, about 6 · 16 · 2n · 4 products by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

from llqr import tensors
from llqr._checks import check_fraction, check_positive
from llqr.backend import Array, Backend, Tensors
from llqr.relatives.base import AbstractMethod, Rates, Shapes, shapes_of
from llqr.solvers.adam import Adam, AdamState
from llqr.solvers.problem import dot_factors, first_factor, map_factors
from llqr.structures import LODO as Structure
from llqr.structures import Block, fold_output_last, make_blocks
from llqr.structures.blocks import BlockFactors, Fold, StructureChoice


@dataclass(frozen=True, kw_only=True)
class LODO(AbstractMethod):
    """Momentum preconditioned by a structure that is learned on the hypergradient.

    Attributes:
        structure: U: one structure, or a function of parameter name and shape.
        momentum: β of the gradient's moving average, in [0, 1).
        meta_learning_rate: Adam's learning rate in the factors, > 0.
        meta_b1: Adam's decay of the first moment, in [0, 1).
        meta_b2: Adam's decay of the second moment, in [0, 1).
        meta_epsilon: Adam's ε, > 0.
        fold: where weights of three or more axes fold, for structures that see matrices.
    """

    structure: StructureChoice = field(default_factory=Structure)
    momentum: float = 0.9  # β
    meta_learning_rate: float = 1e-3
    meta_b1: float = 0.9
    meta_b2: float = 0.999
    meta_epsilon: float = 1e-8
    fold: Fold = field(default=fold_output_last, repr=False)

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name, example in (("momentum", 0.9), ("meta_b1", 0.9), ("meta_b2", 0.999)):
            check_fraction(name, getattr(self, name), example)
        for name, example in (("meta_learning_rate", 1e-3), ("meta_epsilon", 1e-8)):
            check_positive(name, getattr(self, name), example)

    def init(self, backend: Backend, like: Tensors) -> dict[str, Any]:
        """Return U = I, no momentum, and no moments."""
        factors = {
            block.name: block.structure.init(backend, block.block_shape, like[block.parameters[0]])
            for block in self.blocks(shapes_of(like))
        }
        one = backend.asarray(1.0, first_factor(factors))
        zeros = map_factors(lambda leaf: 0.0 * leaf, factors)
        return {
            "factors": factors,
            "meta": AdamState(zeros, zeros, (one, one)),
            "momentum": tensors.scale(0.0, like),
            "rates": {name: 0.0 * one for name in like},
            "step": backend.integer(0, one),
            "rejected": backend.integer(0, one),
        }

    def update(
        self, backend: Backend, state: dict[str, Any], gradient: Tensors, rates: Rates
    ) -> tuple[Tensors, dict[str, Any]]:
        """Learn from the last step, then take the next one; see :class:`AbstractMethod`."""
        blocks = self.blocks(shapes_of(gradient))
        h = self.hypergradient(backend, state, gradient)
        # One that is not finite leaves the factors as they were, and is counted.
        usable = backend.isfinite(dot_factors(backend, h, h))
        # Before the first step there is nothing to learn from, and Adam must not count it.
        learns = usable & (state["step"] > 0)
        moved, meta = self._meta().update(backend, state["factors"], h, state["meta"])
        moved = {
            block.name: block.structure.project(backend, moved[block.name]) for block in blocks
        }
        factors, meta = backend.select(learns, (moved, meta), (state["factors"], state["meta"]))
        beta = float(self.momentum)
        momentum = tensors.map_tensors(
            lambda m, g: beta * m + (1.0 - beta) * g, state["momentum"], gradient
        )
        direction = self.precondition(backend, factors, momentum)
        kept = {name: backend.asarray(rates[name], old) for name, old in state["rates"].items()}
        one, zero = backend.integer(1, state["step"]), backend.integer(0, state["step"])
        return tensors.map_tensors(lambda d, rate: rate * d, direction, kept), {
            "factors": factors,
            "meta": meta,
            "momentum": momentum,
            "rates": kept,
            "step": state["step"] + 1,
            "rejected": state["rejected"] + backend.where(usable, zero, one),
        }

    def precondition(self, backend: Backend, factors: BlockFactors, x: Tensors) -> Tensors:
        """Return U x; a block whose U x is not finite returns x."""
        result: Tensors = {}
        for block in self.blocks(shapes_of(x)):
            own = block.gather(backend, {"input": x})
            value = block.structure.apply(backend, factors[block.name], own)
            result.update(block.split(backend.where(backend.isfinite(value), value, own)))
        return result

    def hypergradient(
        self, backend: Backend, state: dict[str, Any], gradient: Tensors
    ) -> BlockFactors:
        """Return ∂L/∂f at the point the last step led to, from the gradient there."""

        def scaled(g: Array, rate: Array) -> Array:
            return -rate * g

        cotangent = tensors.map_tensors(scaled, gradient, state["rates"])
        return {
            block.name: block.structure.pullback(
                backend,
                state["factors"][block.name],
                block.gather(backend, {"input": state["momentum"]}),
                block.join(backend, cotangent),
            )
            for block in self.blocks(shapes_of(gradient))
        }

    def blocks(self, shapes: Shapes) -> tuple[Block, ...]:
        """Return the blocks that have factors of their own.

        Raises:
            ValueError: if a structure acts on other vectors than the momentum.
        """
        blocks = make_blocks(shapes, self.structure, self.fold)
        for block in blocks:
            if block.sources != ("input",) or block.structure.stacks_sources:
                raise ValueError(
                    f"structure of block {block.name!r} must act on the momentum alone, got "
                    f"{block.structure!r}; use Span with LLQR, which knows its other directions"
                )
        return blocks

    def state_size(self, shapes: Shapes) -> int:
        """Return three numbers per factor entry, and those of momentum, rates and counters."""
        blocks = self.blocks(shapes)
        factors = sum(block.structure.factor_count(block.block_shape) for block in blocks)
        parameters = sum(prod(shape) for shape in shapes.values())
        return 3 * factors + parameters + len(shapes) + 4

    def _meta(self) -> Adam:
        return Adam(
            learning_rate=self.meta_learning_rate,
            b1=self.meta_b1,
            b2=self.meta_b2,
            epsilon=self.meta_epsilon,
        )
