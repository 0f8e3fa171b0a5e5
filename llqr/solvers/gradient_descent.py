"""Gradient descent with heavy-ball momentum, the published inner solver (arXiv 2605.04230).

v ← μ v + clip(∇f),   f ← f − η v              (paper: η 1e-3, μ 0.9, 50 steps, clipped at 5)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llqr._checks import check_fraction
from llqr.backend import Backend
from llqr.solvers.first_order import AbstractFirstOrder
from llqr.solvers.problem import FactorProblem, map_factors
from llqr.structures.blocks import BlockFactors


@dataclass(frozen=True, kw_only=True)
class GradientDescent(AbstractFirstOrder):
    """Gradient descent with heavy-ball momentum.

    Attributes:
        momentum: μ in [0, 1).
    """

    momentum: float = 0.9  # μ

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        check_fraction("momentum", self.momentum, 0.9)

    def init(self, problem: FactorProblem, factors: BlockFactors) -> BlockFactors:
        """Return v = 0."""
        return map_factors(lambda leaf: 0.0 * leaf, factors)

    def update(
        self, backend: Backend, factors: BlockFactors, gradient: BlockFactors, state: Any
    ) -> tuple[BlockFactors, Any]:
        """Return f − η v with v ← μ v + ∇f."""
        velocity = map_factors(lambda v, g: self.momentum * v + g, state, gradient)
        return map_factors(lambda f, v: f - self.learning_rate * v, factors, velocity), velocity
