"""One forward pass of a model and its loss, with everything the user's functions return checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llqr.curvature import OUTPUT, AbstractCurvature
from llqr.torch.backend import TorchBackend
from llqr.torch.batches import batch_size
from llqr.torch.passes import CurvaturePass

OutputsFunction = Callable[[nn.Module, Any], Any]
"""(model, batch) ↦ outputs, or (outputs, {name: intermediate})."""

LossFunction = Callable[[Tensor, Any], Any]
"""(outputs, batch) ↦ mean loss, or (summed loss, normaliser)."""

_LOW_PRECISION = (torch.bfloat16, torch.float16)

WeightsFunction = Callable[[Any], Any]
"""batch ↦ None, weights of the output's events, or {name: weights}."""


def first_element_outputs(model: nn.Module, batch: Any) -> Any:
    """Return ``model(batch[0])``, the default model function.

    Raises:
        ValueError: if the batch is no tuple or list.
    """
    if not isinstance(batch, (tuple, list)) or not batch:
        raise ValueError(
            "outputs_fn must be given unless the batch is a tuple or list (inputs, ...), got "
            f"{type(batch).__name__}; pass e.g. outputs_fn=lambda model, batch: model(batch['x'])"
        )
    return model(batch[0])


@dataclass(frozen=True)
class Evaluation:
    """Outputs and loss of one chunk, attached to the autograd graph.

    Attributes:
        outputs: named outputs, the network's own under ``"output"``.
        weights: named metric weights.
        loss: summed loss, 0-d.
        normaliser: what the mean loss divides by, 0-d, detached.
    """

    outputs: dict[str, Tensor]
    weights: Mapping[str, Tensor]
    loss: Tensor
    normaliser: Tensor


@dataclass(frozen=True, kw_only=True)
class ModelFunction:
    """Outputs and loss of a model as a function of its parameters in place.

    Attributes:
        module: the unwrapped model.
        parameters: the parameters to differentiate in, by name.
        curvature: decides what a mean loss divides by.
        dtype: working precision of results, float32 or float64.
        loss_fn: see :data:`LossFunction`.
        outputs_fn: see :data:`OutputsFunction`.
        weights_fn: see :data:`WeightsFunction`, or None for none.
    """

    module: nn.Module
    parameters: Mapping[str, Tensor]
    curvature: AbstractCurvature
    dtype: torch.dtype
    loss_fn: LossFunction
    outputs_fn: OutputsFunction = first_element_outputs
    weights_fn: WeightsFunction | None = None

    def new_pass(self) -> CurvaturePass:
        """Return the state to run the model in."""
        return CurvaturePass(self.module, self.like.device)

    @property
    def like(self) -> Tensor:
        """A 0-d tensor of the working dtype on the parameters' device."""
        device = next(iter(self.parameters.values())).device
        return torch.zeros((), dtype=self.dtype, device=device)

    def evaluate(self, batch: Any) -> Evaluation:
        """Run the model on one chunk; call inside an active pass."""
        batch_size(batch)
        outputs = named_outputs(self.outputs_fn(self.module, batch))
        weights = self._weights(batch)
        summed, normaliser = self.summed_loss(outputs[OUTPUT], batch, weights)
        return Evaluation(outputs, weights, summed, normaliser)

    def summed_loss(
        self, output: Tensor, batch: Any, weights: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the summed loss and what the mean divides by, both 0-d in the working dtype.

        Raises:
            ValueError: if the loss is not a 0-d tensor.
        """
        result = self.loss_fn(output, batch)
        if isinstance(result, tuple) and len(result) == 2:
            loss, count = result
            normaliser = torch.as_tensor(count, device=self.like.device).detach().to(self.dtype)
            _check_scalar("normaliser returned by loss_fn", normaliser)
            _check_scalar("loss_fn result", loss)
            return loss.to(self.dtype), normaliser
        _check_scalar("loss_fn result", result)
        normaliser = self._normaliser(output.detach().to(self.dtype), weights.get(OUTPUT))
        return result.to(self.dtype) * normaliser, normaliser

    def _normaliser(self, output: Tensor, weights: Tensor | None) -> Tensor:
        metric = self.curvature.output_metric
        if metric is not None:
            return metric.normaliser(TorchBackend(), output, weights)
        examples = output.shape[0] if output.ndim else 1
        return torch.full((), float(examples), dtype=self.dtype, device=output.device)

    def _weights(self, batch: Any) -> Mapping[str, Tensor]:
        given = None if self.weights_fn is None else self.weights_fn(batch)
        if given is None:
            return {}
        named = given if isinstance(given, Mapping) else {OUTPUT: given}
        like = self.like
        return {
            name: torch.as_tensor(value).detach().to(device=like.device, dtype=self.dtype)
            for name, value in named.items()
            if value is not None
        }


def working_dtype(parameters: Mapping[str, Tensor]) -> torch.dtype:
    """Return float64 if any parameter is, else float32: the dtype of factors and products.

    Raises:
        TypeError: for complex parameters.
    """
    for name, parameter in parameters.items():
        if parameter.dtype not in (torch.float32, torch.float64, *_LOW_PRECISION):
            raise TypeError(
                f"parameter {name!r} must be a real floating-point tensor of 16 to 64 bits, got "
                f"{parameter.dtype}; freeze it, or split complex parameters into two real ones"
            )
    double = any(parameter.dtype == torch.float64 for parameter in parameters.values())
    return torch.float64 if double else torch.float32


def named_outputs(result: Any) -> dict[str, Tensor]:
    """Return what a model function gave as named outputs.

    Raises:
        TypeError: if it is neither a tensor nor (tensor, {name: tensor}).
        ValueError: if an intermediate takes the output's name.
    """
    output, intermediate = result, {}
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping):
        output, intermediate = result
    named = {"outputs": output, **{f"intermediate {k!r}": v for k, v in intermediate.items()}}
    for what, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{what} of the model function must be a tensor, got {type(value).__name__}; "
                "pass outputs_fn returning outputs or (outputs, {name: intermediate})"
            )
    if OUTPUT in intermediate:
        raise ValueError(
            f'the name "{OUTPUT}" is taken by the network\'s output; rename that intermediate'
        )
    return {OUTPUT: output, **intermediate}


def _check_scalar(what: str, value: Any) -> None:
    if not isinstance(value, Tensor) or value.ndim != 0:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"{what} must be a 0-d tensor, got {got}; return the mean loss, or "
            "(summed loss, normaliser)"
        )
