"""Adam as inner solver.

m ← b1 m + (1 − b1) ∇f,   v ← b2 v + (1 − b2) ∇f²,   f ← f − η m̂ / (√v̂ + ε)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from llqr._checks import check_fraction, check_positive
from llqr.backend import Array, Backend
from llqr.solvers.first_order import AbstractFirstOrder
from llqr.solvers.problem import FactorProblem, first_factor, map_factors
from llqr.structures.blocks import BlockFactors


class AdamState(NamedTuple):
    """Both moments of the gradient and the powers of their decays."""

    first: BlockFactors
    second: BlockFactors
    powers: tuple[Array, Array]  # b1ᵗ, b2ᵗ


@dataclass(frozen=True, kw_only=True)
class Adam(AbstractFirstOrder):
    """Adam in the factors. It can drift on flat objectives; rises are counted and watched.

    Attributes:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moment, in [0, 1).
        epsilon: added to the root of the second moment, > 0.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        check_fraction("b1", self.b1, 0.9)
        check_fraction("b2", self.b2, 0.999)
        check_positive("epsilon", self.epsilon, 1e-8)

    def init(self, problem: FactorProblem, factors: BlockFactors) -> AdamState:
        """Return zero moments."""
        zeros = map_factors(lambda leaf: 0.0 * leaf, factors)
        one = problem.backend.asarray(1.0, first_factor(factors))
        return AdamState(zeros, zeros, (one, one))

    def update(
        self, backend: Backend, factors: BlockFactors, gradient: BlockFactors, state: Any
    ) -> tuple[BlockFactors, Any]:
        """Return f − η m̂ / (√v̂ + ε)."""
        first = map_factors(lambda m, g: self.b1 * m + (1.0 - self.b1) * g, state.first, gradient)
        second = map_factors(
            lambda v, g: self.b2 * v + (1.0 - self.b2) * g * g, state.second, gradient
        )
        power1, power2 = state.powers[0] * self.b1, state.powers[1] * self.b2

        def move(f: Array, m: Array, v: Array) -> Array:
            root = backend.sqrt(v / (1.0 - power2)) + self.epsilon
            return f - self.learning_rate * (m / (1.0 - power1)) / root

        moved = map_factors(move, factors, first, second)
        return moved, AdamState(first, second, (power1, power2))
