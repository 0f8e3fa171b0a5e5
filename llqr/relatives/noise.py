"""Layerwise learning rates from the noise of the gradients, in the norm each layer is stepped in.

    H_ℓ ← β₂ H_ℓ + (1 − β₂) ‖G_ℓ − G̃_ℓ‖²_*,     α_ℓ = α / √(α² + H_ℓ)
    rate_ℓ = (α_ℓ / max_j α_j)^p,                 j over the layers of the same geometry

G̃ is the previous gradient, so that E‖G − G̃‖² estimates twice the variance without a second pass; ‖·‖_* is the
dual norm of the layer's geometry. The largest rate of a group is 1, so the learning rate keeps its meaning.

Source: "Noise-Adaptive Layerwise Learning Rates" (arXiv 2510.14009). Accounts of the last line differ in p.
The default is p = ½: for momentum with steps of fixed length the bound on the gradient norm is least at
1 − β₁ ∝ 1/(σ √T) and a rate η ∝ √((1 − β₁)/T) ∝ σ^(−1/2), and α_ℓ ∝ 1/σ_ℓ where noise dominates. ``"linear"``
is p = 1, a rate ∝ 1/σ_ℓ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llqr import tensors
from llqr._checks import check_fraction, check_positive
from llqr.backend import Array, Backend, Tensors
from llqr.structures.base import layer_of
from llqr.structures.blocks import Block

_EXPONENTS = ("sqrt", "linear")


@dataclass(frozen=True, kw_only=True)
class NoiseAdaptiveRates:
    """Relative rates in (0, 1] per layer.

    Attributes:
        noise_scale: α > 0, the noise below which rates are equal, in units of the dual norms.
        noise_decay: β₂ of the estimate, in [0, 1).
        rule: ``"sqrt"`` (p = ½) or ``"linear"`` (p = 1).
    """

    noise_scale: float = 1.0  # α
    noise_decay: float = 0.9  # β₂
    rule: Literal["sqrt", "linear"] = "sqrt"

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive("noise_scale", self.noise_scale)
        check_fraction("noise_decay", self.noise_decay, 0.9)
        if self.rule not in _EXPONENTS:
            raise ValueError(
                f'rule must be "sqrt" or "linear", got {self.rule!r}; the default is "sqrt"'
            )

    def estimate(
        self, backend: Backend, noise: dict[str, Array], squares: dict[str, Array], known: Array
    ) -> dict[str, Array]:
        """Return the new H per layer.

        Args:
            backend: array operations.
            noise: H per layer, 0-d.
            squares: ‖G − G̃‖²_* per layer, 0-d.
            known: 0-d boolean, is there a previous gradient; H stays as it is otherwise.
        """
        decay = float(self.noise_decay)
        return {
            layer: backend.where(known, decay * old + (1.0 - decay) * squares[layer], old)
            for layer, old in noise.items()
        }

    def rates(
        self, backend: Backend, noise: dict[str, Array], groups: Mapping[str, str]
    ) -> dict[str, Array]:
        """Return the relative rate of every layer, 0-d, at most 1.

        Args:
            backend: array operations.
            noise: H per layer, 0-d.
            groups: layer ↦ name of the group of layers it is compared with.
        """
        scale = float(self.noise_scale)
        inverse = {layer: scale / backend.sqrt(scale**2 + own) for layer, own in noise.items()}
        largest: dict[str, Array] = {}
        for layer, own in inverse.items():
            group = groups[layer]
            known = largest.get(group)
            largest[group] = own if known is None else backend.maximum(known, own)
        ratios = {layer: own / largest[groups[layer]] for layer, own in inverse.items()}
        if self.rule == "linear":
            return ratios
        return {layer: backend.sqrt(own) for layer, own in ratios.items()}


@dataclass(frozen=True, kw_only=True)
class LayerNoise:
    """Relative rates of layers of several parameters, with the Euclidean norm of the joined vector.

    Attributes:
        rates: how noise sets the rates; all layers are compared with each other.
        layers: parameter name ↦ layer.
    """

    rates: NoiseAdaptiveRates = field(default_factory=NoiseAdaptiveRates)
    layers: Callable[[str], str] = layer_of

    def init(self, backend: Backend, like: Tensors) -> dict[str, Any]:
        """Return no noise and no previous gradient."""
        some = next(iter(like.values()))
        return {
            "previous": tensors.scale(0.0, like),
            "noise": {layer: backend.zeros((), some) for layer in self._members(like)},
            "step": backend.integer(0, some),
        }

    def update(
        self, backend: Backend, state: dict[str, Any], gradient: Tensors
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the relative rate of every parameter, and the new state."""
        change = tensors.add_scaled(gradient, -1.0, state["previous"])
        members = self._members(gradient)
        squares = {
            layer: sum((change[name] * change[name]).sum() for name in names)
            for layer, names in members.items()
        }
        noise = self.rates.estimate(backend, state["noise"], squares, state["step"] > 0)
        new = {
            # A copy: what the caller passes may be a buffer that the next backward pass fills.
            "previous": tensors.scale(1.0, gradient),
            "noise": noise,
            "step": state["step"] + 1,
        }
        relative = self.layer_rates(backend, new)
        return {name: relative[layer] for layer, names in members.items() for name in names}, new

    def layer_rates(self, backend: Backend, state: dict[str, Any]) -> dict[str, Array]:
        """Return the relative rate of every layer, 0-d."""
        return self.rates.rates(backend, state["noise"], dict.fromkeys(state["noise"], "all"))

    def _members(self, values: Tensors) -> dict[str, list[str]]:
        members: dict[str, list[str]] = {}
        for name in sorted(values):
            members.setdefault(self.layers(name), []).append(name)
        return members


def layers_of_blocks(blocks: Iterable[Block]) -> Callable[[str], str]:
    """Return the function parameter name ↦ block of an LLQR preconditioner."""
    owners = {name: block.name for block in blocks for name in block.parameters}
    return owners.__getitem__
