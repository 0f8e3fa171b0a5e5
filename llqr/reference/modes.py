"""Modes: which divergence D(θ, θ') the steepest descent is taken under.

Every mode is a sum of terms D_k(x_k, x_k') on states of the network, and says whether the network
is linearised. With p_k' = ∂D_k/∂x_k' and M_k = ∂²D_k/∂x_k'², both at x' = x,

    linearised:      C = Σ_k J_kᵀ M_k J_k,                                  J_k = ∂x_k/∂θ
    not linearised:  C = Σ_k (J_kᵀ M_k J_k + the second derivative of x_k(θ) contracted with p_k').

| mode | terms | linearised |
|---|---|---|
| Newton | ℓ on the output | no |
| GaussNewton | ℓ on the output | yes |
| Fisher | KL divergence on the output | yes: p_N' = 0, so nothing is dropped |
| Renyi | α · KL divergence on the output | yes |
| IntermediateLayers | D_k on any states, plus those of a base mode | as the base mode |
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Loss = Callable[[Any], Any]
Divergence = Callable[[Any, Any], Any]


class StateTerm(NamedTuple):
    """One term D_k(x_k, x_k') of a mode, a scalar differentiated in its second argument."""

    state_index: int  # k, 0 for the input and N for the output
    divergence: Divergence


class AbstractMode(abc.ABC):
    """A divergence between two parameter vectors, made of terms on the states."""

    @property
    @abc.abstractmethod
    def linearised(self) -> bool:
        """Whether second derivatives of the layers are left out, so that Q, M, R hold no H_i."""

    @abc.abstractmethod
    def terms(self, loss: Loss, depth: int) -> tuple[StateTerm, ...]:
        """State the terms for a network of N layers.

        Args:
            loss: ℓ, takes the output x_N and returns a scalar.
            depth: N.

        Returns:
            The terms; several may fall on one state.
        """


@dataclasses.dataclass(frozen=True)
class Newton(AbstractMode):
    """C is the Hessian of the loss, which may be indefinite."""

    @property
    def linearised(self) -> bool:
        """False: the layers' second derivatives are part of the Hessian."""
        return False

    def terms(self, loss: Loss, depth: int) -> tuple[StateTerm, ...]:
        """Return the loss itself."""
        return (StateTerm(depth, lambda _, outputs: loss(outputs)),)


@dataclasses.dataclass(frozen=True)
class GaussNewton(AbstractMode):
    """C = Jᵀ ℓ''(x_N) J, the Hessian of the loss of the linearised network."""

    @property
    def linearised(self) -> bool:
        """True."""
        return True

    def terms(self, loss: Loss, depth: int) -> tuple[StateTerm, ...]:
        """Return the loss itself."""
        return (StateTerm(depth, lambda _, outputs: loss(outputs)),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fisher(AbstractMode):
    """C = Jᵀ F(x_N) J with F the second derivative of a KL divergence between outputs.

    A loss that is a mean over the batch goes with a divergence that is a mean over the batch.
    """

    divergence: Divergence  # D(x_N, x_N'), zero gradient in x_N' at x_N' = x_N

    @property
    def linearised(self) -> bool:
        """True: the adjoint is 0, so the second derivatives drop out."""
        return True

    def terms(self, loss: Loss, depth: int) -> tuple[StateTerm, ...]:
        """Return the divergence on the output."""
        return (StateTerm(depth, self.divergence),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renyi(AbstractMode):
    """C = α · Fisher, the second derivative of the Rényi divergence of order α.

    Raises:
        ValueError: If the order is not in (0, ∞).
    """

    order: float  # α; 1 is the KL divergence
    divergence: Divergence  # the KL divergence between outputs, as for `Fisher`

    def __post_init__(self) -> None:
        """Check the order."""
        if not (math.isfinite(self.order) and self.order > 0.0):
            raise ValueError(
                f"order must be finite and > 0, got {self.order}; 1.0 is the KL divergence"
            )

    @property
    def linearised(self) -> bool:
        """True, as for the Fisher."""
        return True

    def terms(self, loss: Loss, depth: int) -> tuple[StateTerm, ...]:
        """Return α times the KL divergence on the output."""
        return (StateTerm(depth, lambda x, other: self.order * self.divergence(x, other)),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IntermediateLayers(AbstractMode):
    """C = Σ_k J_kᵀ M_k J_k with metrics M_k on chosen states, plus the C of a base mode.

    With a linearised base (or none) each D_k enters through M_k alone. With `Newton` it enters in
    full: ∂D_k/∂x_k' joins the adjoint p_k, so D_k may also be an auxiliary loss; for a true
    divergence that gradient is 0 and C is the Hessian of the loss plus Σ_k J_kᵀ M_k J_k.

    Raises:
        ValueError: If there is no divergence, or an index is below 1 (x_0 does not depend on θ).
    """

    divergences: Mapping[int, Divergence]  # k ↦ D_k(x_k, x_k'), 1 ≤ k ≤ N
    base: AbstractMode | None = None  # None: the metrics alone

    def __post_init__(self) -> None:
        """Check what can be checked without the network."""
        if not self.divergences:
            raise ValueError(
                "divergences must name at least one state, got none; use the base mode"
            )
        if min(self.divergences) < 1:
            raise ValueError(
                f"divergences must be on states 1 to N, got index {min(self.divergences)}; "
                "state k is the output of layer k - 1"
            )

    @property
    def linearised(self) -> bool:
        """As the base mode, and linearised without one."""
        return self.base is None or self.base.linearised

    def terms(self, loss: Loss, depth: int) -> tuple[StateTerm, ...]:
        """Return the metrics and the terms of the base mode.

        Raises:
            ValueError: If an index is above N.
        """
        if max(self.divergences) > depth:
            raise ValueError(
                f"divergences must be on states 1 to {depth}, got index {max(self.divergences)}; "
                "state k is the output of layer k - 1"
            )
        own = tuple(StateTerm(index, each) for index, each in self.divergences.items())
        return own if self.base is None else own + self.base.terms(loss, depth)
