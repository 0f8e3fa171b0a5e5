"""Noise-adaptive layerwise rates around any optimizer, LLQR among them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from llqr.relatives.noise import LayerNoise, NoiseAdaptiveRates
from llqr.structures.base import layer_of
from llqr.torch.backend import TorchBackend
from llqr.torch.evaluation import working_dtype
from llqr.torch.gradients import Snapshot, non_finite_names, training_gradient
from llqr.torch.passes import named_parameters
from llqr.torch.relatives.packing import map_leaves, pack, unpack
from llqr.torch.reporting import NonFiniteWarning, skipped_step
from llqr.torch.wrapper import AbstractWrapper, Closure, replayed

KEY = "noise"


class NoiseAdaptive(AbstractWrapper):
    """Shortens the base optimizer's update in layers with noisy gradients.

        θ_ℓ ← θ_ℓ + rate_ℓ (base(θ)_ℓ − θ_ℓ),   rate_ℓ as in :mod:`llqr.relatives.noise`

    Args:
        base_optimizer: any ``torch.optim.Optimizer``, e.g. :class:`llqr.torch.LLQR`.
        model: the model, for the names of parameters.
        rates: how noise sets the rates.
        layers: parameter name ↦ layer; the default is what LLQR's structures take for a layer. For the blocks
            of an LLQR optimizer pass :func:`llqr.relatives.noise.layers_of_blocks`.

    Raises:
        ValueError: if the model does not name a parameter of the base optimizer.
    """

    def __init__(
        self,
        base_optimizer: Optimizer,
        model: nn.Module,
        *,
        rates: NoiseAdaptiveRates | None = None,
        layers: Callable[[str], str] = layer_of,
    ) -> None:
        super().__init__(base_optimizer)
        self.skipped = 0
        taken = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        self._parameters = {
            name: parameter
            for name, parameter in named_parameters(model).items()
            if id(parameter) in taken and parameter.requires_grad
        }
        if len(self._parameters) < len(taken):
            raise ValueError(
                f"model must name every parameter of base_optimizer, got {len(taken)} parameters and "
                f"{len(self._parameters)} names; pass the model that owns them"
            )
        self._dtype = working_dtype(self._parameters)
        self._noise = LayerNoise(rates=rates or NoiseAdaptiveRates(), layers=layers)
        like = {k: torch.zeros_like(v, dtype=self._dtype) for k, v in self._parameters.items()}
        self._noise_state = self._noise.init(TorchBackend(), like)

    @torch.no_grad()
    def step(self, closure: Closure | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Let the base optimizer step, then shorten what it did.

        Args:
            closure: re-evaluates the model and returns the loss.
            **options: for the base optimizer, e.g. ``batch``.

        Returns:
            What the closure returned at the initial parameters, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = non_finite_names(self._parameters)
        if bad:
            self.skipped += 1
            warnings.warn(
                skipped_step(bad, self.skipped, "parameters and state"),
                NonFiniteWarning,
                stacklevel=2,
            )
            return loss
        device = next(iter(self._parameters.values())).device
        state = map_leaves(lambda value: value.to(device), self._noise_state)
        gradient = training_gradient(self._parameters, self._dtype)
        rates, state = self._noise.update(TorchBackend(), state, gradient)
        before = Snapshot(self._parameters)
        if closure is None:
            self.base_optimizer.step(**options)
        else:
            self.base_optimizer.step(replayed(closure, loss), **options)
        for name, parameter in self._parameters.items():
            old = before.values[name].to(self._dtype)
            # Exact at a rate of 1, as a sum of differences would not be.
            parameter.copy_(torch.lerp(old, parameter.to(self._dtype), rates[name]))
        self._noise_state = state
        return loss

    def rates(self) -> dict[str, float]:
        """Return the relative rate of every layer after the last step."""
        return {
            layer: float(rate)
            for layer, rate in self._noise.layer_rates(TorchBackend(), self._noise_state).items()
        }

    def __repr__(self) -> str:
        return f"NoiseAdaptive({self._noise.rates!r} around {self.base_optimizer!r})"

    def _packed(self) -> dict[str, Any]:
        return {KEY: {"state": pack(self._noise_state), "skipped": self.skipped}}

    def _checked(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        own: Any = state_dict.get(KEY)
        if not isinstance(own, Mapping):
            raise ValueError(
                f"state_dict must hold the key {KEY!r}, got {sorted(state_dict)}; a state of the base "
                "optimizer alone goes to optimizer.base_optimizer.load_state_dict"
            )
        loaded = unpack(own["state"], self._noise_state)

        def take() -> None:
            self._noise_state, self.skipped = loaded, own["skipped"]

        return take
