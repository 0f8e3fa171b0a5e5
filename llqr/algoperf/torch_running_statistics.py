"""Statistics of a training batch in torch, one pass per half (:mod:`llqr.algoperf.running_statistics`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from llqr.algoperf.batches import Batch, example_count, halves, is_sliceable
from llqr.algoperf.likelihoods import specification
from llqr.algoperf.running_statistics import MIN_EXAMPLES, at_present
from llqr.algoperf.torch_curvature import AsItStands
from llqr.torch.backend import TorchBackend
from llqr.torch.distributed import sum_over_processes, world_size
from llqr.torch.passes import random_state_kept, tracks_statistics, unwrap

STATISTICS = ("running_mean", "running_var")

Forward = Callable[[nn.Module, Batch], Any]
"""Runs a module, whose modes stay as they are, on a batch."""


class PresentStatistics:
    """Brings a model's running statistics to the present for evaluations, of which training sees nothing.

    Args:
        model: the model, wrapped or not. Without running statistics nothing is kept or done.
    """

    def __init__(self, model: nn.Module) -> None:
        self._needed = any(map(tracks_statistics, model.modules()))
        self._last_batch: Batch | None = None
        # What training goes on with, by name of the buffer; empty unless the model was evaluated since.
        self._running: dict[str, Tensor] = {}

    def train(self, model: nn.Module, batch: Batch) -> None:
        """Undo what evaluations changed; call before a training step on this batch."""
        if self._running:
            buffers = dict(unwrap(model).named_buffers())
            for name, value in self._running.items():
                buffers[name].copy_(value)
            self._running = {}
        self._last_batch = batch if self._needed else None

    def evaluate(self, model: nn.Module, workload: Any, model_state: Any) -> None:
        """Bring the statistics to the present; call before an evaluation, in the mode of the last step."""
        # Evaluated again without a step between, there is nothing new.
        if self._last_batch is not None and not self._running:
            forward = training_pass(workload, model_state)
            self._running = bring_to_present(model, forward, self._last_batch)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what training goes on with, where that is not in the model."""
        return dict(self._running)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`state_dict` returned."""
        self._running = dict(state)


def training_pass(workload: Any, model_state: Any) -> Forward:
    """Return a workload's pass in training mode, without dropout."""
    mode = specification(workload).ForwardPassMode.TRAIN

    def forward(module: nn.Module, batch: Batch) -> None:
        workload.model_fn(
            params=AsItStands(module),
            augmented_and_preprocessed_input_batch=batch,
            model_state=model_state,
            mode=mode,
            rng=None,
            update_batch_norm=True,
            dropout_rate=0.0,
        )

    return forward


@torch.no_grad()
def bring_to_present(model: nn.Module, forward: Forward, batch: Batch) -> dict[str, Tensor]:
    """Move running statistics to those of the parameters as they are; nothing else changes.

    Layers follow that are in training mode, which is taken to be that of the last step; during the passes no
    other module is.

    Args:
        model: the model, wrapped or not.
        forward: such as :func:`training_pass`.
        batch: this process's last training batch; one that cannot be halved changes nothing.

    Returns:
        What was changed, as it was before, by name of the buffer.
    """
    module = unwrap(model)
    layers = {name: layer for name, layer in module.named_modules() if _follows(layer)}
    examples = example_count(batch)
    if not layers or examples < MIN_EXAMPLES or not is_sliceable(batch, examples):
        return {}
    with random_state_kept(next(iter(layers.values())).running_mean.device):
        first, second = (
            _statistics(module, layers, forward, half) for half in halves(batch, examples)
        )
    before: dict[str, Tensor] = {}
    for name, layer in layers.items():
        for key, running in _running(layer).items():
            before[f"{name}.{key}" if name else key] = running.clone()
            found = first[name][key], second[name][key]
            running.copy_(at_present(TorchBackend(), running, found))
    return before


def _follows(layer: nn.Module) -> bool:
    """Do a layer's running statistics follow the batches; without a momentum they are means of all."""
    return tracks_statistics(layer) and layer.training and bool(getattr(layer, "momentum", None))


def _running(layer: nn.Module) -> dict[str, Tensor]:
    return {key: layer._buffers[key] for key in STATISTICS if layer._buffers.get(key) is not None}


def _statistics(
    module: nn.Module, layers: Mapping[str, nn.Module], forward: Forward, batch: Batch
) -> dict[str, dict[str, Tensor]]:
    """Return the statistics of a batch, by layer, averaged over processes."""
    with ExitStack() as stack:
        followed = set(layers.values())
        for part in module.modules():
            # Set directly: some modules override train() and fuse weights there.
            stack.callback(part.__dict__.__setitem__, "training", part.training)
            part.__dict__["training"] = part in followed
        for layer in layers.values():
            stack.callback(setattr, layer, "momentum", layer.momentum)
            # A number or a tensor: one, with which statistics become those of the batch.
            layer.momentum = layer.momentum**0
            stack.callback(layer._buffers.update, dict(layer._buffers))
            for key, value in layer._buffers.items():
                if value is not None:
                    layer._buffers[key] = (
                        torch.zeros_like(value) if key in STATISTICS else value.clone()
                    )
        forward(module, batch)
        own = {name: _running(layer) for name, layer in layers.items()}
    processes = world_size()
    return {
        name: {key: value / processes for key, value in of_layer.items()}
        for name, of_layer in sum_over_processes(own).items()
    }
