"""Damping λ of the quadratic model: a constant, or proportional to the gradient norm.

Gradient-normalized smoothness (Semenov, Jaggi, Doikov, arXiv 2506.13710) takes λ = ‖g‖/γ and adapts γ:
a step δ is accepted, and γ doubled, if

    L(θ) − L(θ + δ) ≥ ‖∇L(θ + δ)‖² / (8 λ);

otherwise it is rejected and γ halved.
"""

from __future__ import annotations

from dataclasses import dataclass

from llqr import tensors
from llqr._checks import check_not_negative, check_positive
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
        check_not_negative("damping", self.value)


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
        for name in ("smallest", "initial", "largest"):
            check_positive(name, getattr(self, name))
        if not self.smallest <= self.initial <= self.largest:
            raise ValueError(
                "initial must lie between smallest and largest, got "
                f"{self.initial!r} outside [{self.smallest!r}, {self.largest!r}]; pass e.g. initial=1.0"
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
        """Return whether L(θ) − L(θ + δ) ≥ ‖∇L(θ + δ)‖² / (8 λ); False for NaN.

        Args:
            backend: array operations.
            damping: λ with which δ was found.
            loss: L(θ).
            new_loss: L(θ + δ).
            new_gradient: ∇L(θ + δ).
        """
        return (loss - new_loss) * 8.0 * damping >= tensors.dot(new_gradient, new_gradient)

    def adapted(self, backend: Backend, smoothness: Array, accepted: Array) -> Array:
        """Return the new γ: doubled or halved, within its bounds."""
        moved = backend.where(accepted, 2.0 * smoothness, 0.5 * smoothness)
        return -backend.maximum(-backend.maximum(moved, self.smallest), -self.largest)


Damping = ConstantDamping | GradientNormDamping
