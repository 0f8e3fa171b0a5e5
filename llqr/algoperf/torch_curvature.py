"""A torch workload as LLQR's outputs, loss and weights functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llqr.algoperf.curvature_batches import BATCH, PADDINGS, WEIGHTS
from llqr.algoperf.likelihoods import Likelihood, specification, weights_from_slopes


class AsItStands:
    """Lets a workload call a module without changing its mode.

    Workloads evaluate under ``no_grad``, and their training passes switch the module to training; LLQR's
    curvature pass has put it into the mode that it needs, and takes gradients.

    Args:
        module: the module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module."""
        return self._module(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module."""
        return getattr(self._module, name)

    def train(self, mode: bool = True) -> AsItStands:
        """Change nothing."""
        return self

    def eval(self) -> AsItStands:
        """Change nothing."""
        return self

    def apply(self, function: Any) -> AsItStands:
        """Change nothing: workloads set the momentum of batch statistics in this way."""
        return self


class Whole:
    """Something LLQR must not cut into examples: it has no shape, so it belongs to every piece.

    Args:
        value: entries of a batch.
    """

    def __init__(self, value: Mapping[str, Any]) -> None:
        self.value = value


WHOLE = "whole"
"""Key of the part of a curvature batch that is not cut."""


@dataclass(frozen=True, kw_only=True)
class TorchObjective:
    """The network without dropout and its training loss, on pieces of a curvature batch.

    Attributes:
        workload: model and loss.
        label_smoothing: as in training.
    """

    workload: Any
    label_smoothing: float = 0.0

    def outputs(self, module: nn.Module, piece: Mapping[str, Any]) -> Tensor:
        """Return the logits of a module in the mode that a curvature pass puts it into."""
        outputs, _ = self.workload.model_fn(
            params=AsItStands(module),
            augmented_and_preprocessed_input_batch={**piece[BATCH], **piece[WHOLE].value},
            model_state=None,
            mode=specification(self.workload).ForwardPassMode.TRAIN,
            rng=None,
            update_batch_norm=False,
            dropout_rate=0.0,
        )
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def loss(self, outputs: Tensor, piece: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the summed loss and the number it is divided by."""
        loss = self.workload.loss_fn(
            label_batch=piece[BATCH]["targets"],
            logits_batch=(outputs, piece[PADDINGS]) if PADDINGS in piece else outputs,
            mask_batch=piece[BATCH].get("weights"),
            label_smoothing=self.label_smoothing,
        )
        count = torch.as_tensor(loss["n_valid_examples"], device=outputs.device)
        return loss["summed"], count

    def weights(self, piece: Mapping[str, Any]) -> Tensor | None:
        """Return the weights of the loss's events."""
        return piece.get(WEIGHTS)

    def probe(self, likelihood: Likelihood, outputs: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Return the weight of every output number in the summed loss, of the shape of ``outputs``."""

        def slope(value: float) -> Tensor:
            point = torch.full_like(outputs, value, requires_grad=True)
            with torch.enable_grad():
                loss, _ = self.loss(point, {BATCH: batch})
            (result,) = torch.autograd.grad(loss, point)
            return result

        return weights_from_slopes(likelihood.probe, slope, lambda x: 1.0 / (1.0 + math.exp(-x)))
