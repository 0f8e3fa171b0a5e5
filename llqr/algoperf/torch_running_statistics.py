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
def bring_to_present(model: nn.Module, forward: Forward, batch: Batch) -> None:
    """Move running statistics to those of the parameters as they are; nothing else changes.

    Layers follow that are in training mode, which is taken to be that of the last step; during the passes no
    other module is.

    Args:
        model: the model, wrapped or not.
        forward: such as :func:`training_pass`.
        batch: this process's last training batch; one that cannot be halved changes nothing.
    """
    module = unwrap(model)
    layers = {name: layer for name, layer in module.named_modules() if _follows(layer)}
    examples = example_count(batch)
    if not layers or examples < MIN_EXAMPLES or not is_sliceable(batch, examples):
        return
    with random_state_kept(next(iter(layers.values())).running_mean.device):
        first, second = (
            _statistics(module, layers, forward, half) for half in halves(batch, examples)
        )
    for name, layer in layers.items():
        for key, running in _running(layer).items():
            found = first[name][key], second[name][key]
            running.copy_(at_present(TorchBackend(), running, found))


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
