"""Damping λ of the quadratic model: a constant, or proportional to the gradient norm.

Gradient-normalized smoothness (Semenov, Jaggi, Doikov, arXiv 2506.13710) takes λ = ‖g‖/γ and adapts γ:
a step δ is accepted, and γ doubled, if

    L(θ) − L(θ + δ) ≥ ‖∇L(θ + δ)‖² / (8 λ);

otherwise it is rejected and γ halved.
"""

from __future__ import annotations

from dataclasses import dataclass

from llqr import tensors
from llqr.backend import Array, Backend, Tensors


@dataclass(frozen=True, kw_only=True)
class ConstantDamping:
    """λ as given.

    Attributes:
        value: λ ≥ 0, in units of curvature.
    """

    value: float = 0.0  # λ

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not (isinstance(self.value, (int, float)) and 0.0 <= self.value < float("inf")):
            raise ValueError(
                f"damping must be a finite number of at least 0, got {self.value!r}; "
                "0 is the published setting"
            )


@dataclass(frozen=True, kw_only=True)
class GradientNormDamping:
    """λ = ‖g‖/γ with γ doubled on acceptance and halved on rejection.

    Attributes:
        initial: γ at the start, > 0.
        smallest: lower bound on γ, > 0.
        largest: upper bound on γ.
    """

    initial: float = 1.0  # γ₀
    smallest: float = 1e-9
    largest: float = 1e9

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not 0.0 < self.smallest <= self.initial <= self.largest < float("inf"):
            raise ValueError(
                "gradient-norm damping needs 0 < smallest ≤ initial ≤ largest < inf, got "
                f"{self.smallest!r}, {self.initial!r}, {self.largest!r}; the default initial is 1.0"
            )

    def value(self, backend: Backend, gradient: Tensors, smoothness: Array) -> Array:
        """Return λ = ‖g‖/γ."""
        return tensors.norm(backend, gradient) / smoothness

    def accepts(
        self,
        backend: Backend,
        damping: Array,
        loss: Array,
        new_loss: Array,
        new_gradient: Tensors,
    ) -> Array:
        """Return whether L(θ) − L(θ + δ) ≥ ‖∇L(θ + δ)‖² / (8 λ); False for non-finite numbers."""
        return (loss - new_loss) * 8.0 * damping >= tensors.dot(new_gradient, new_gradient)

    def adapted(self, backend: Backend, smoothness: Array, accepted: Array) -> Array:
        """Return the new γ: doubled or halved, within its bounds."""
        moved = backend.where(accepted, 2.0 * smoothness, 0.5 * smoothness)
        return -backend.maximum(-backend.maximum(moved, self.smallest), -self.largest)


Damping = ConstantDamping | GradientNormDamping
