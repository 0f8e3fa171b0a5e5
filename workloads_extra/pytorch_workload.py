"""What the extra workloads need in PyTorch: distributed batches, evaluation.

Under torchrun every process makes the same global queue from the same seed and keeps its own share of each
batch, so nothing is broadcast. Processes without a GPU talk through gloo.
"""

import abc
import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from workloads_extra import parameters
from workloads_extra.losses_pytorch import LOSSES
from workloads_extra.spec import ForwardPassMode, LossType


class Processes(NamedTuple):
    """The processes of a run, from the variables that torchrun sets.

    Attributes:
        distributed: whether torchrun started this process.
        rank: number of this process.
        world_size: how many there are.
        device: where this process computes.
    """

    distributed: bool
    rank: int
    world_size: int
    device: torch.device


def processes() -> Processes:
    """Read who this process is."""
    distributed = "LOCAL_RANK" in os.environ
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    cuda = torch.cuda.is_available()
    return Processes(
        distributed=distributed,
        rank=int(os.environ.get("RANK", local_rank)),
        world_size=int(os.environ.get("WORLD_SIZE", 1)) if distributed else 1,
        device=torch.device(f"cuda:{local_rank}" if cuda else "cpu"),
    )


class PytorchWorkload:
    """Mixin that comes before the framework-independent base of a workload."""

    @abc.abstractmethod
    def _make_model(self) -> nn.Module:
        """Return the model, its parameters named as `parameters.torch_name` says."""

    def init_model_fn(self, rng: Any) -> tuple[nn.Module, None]:
        """Return a new model, wrapped for several processes if there are some, and None for its state."""
        specs = self._parameter_specs()
        arrays = parameters.to_torch_layout(parameters.initial_arrays(specs, rng))
        model = self._make_model()
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        model.load_state_dict({**dict(model.named_buffers()), **tensors})
        self._param_shapes = parameters.shape_tuples(dict(model.named_parameters()))
        self._param_types = {parameters.torch_name(path): spec.type for path, spec in specs.items()}
        here = processes()
        model.to(here.device)
        if here.distributed:
            device_ids = [here.device] if here.device.type == "cuda" else None
            model = nn.parallel.DistributedDataParallel(model, device_ids=device_ids)
        return model, None

    def model_fn(
        self,
        params: nn.Module,
        augmented_and_preprocessed_input_batch: dict[str, Tensor],
        model_state: None,
        mode: ForwardPassMode,
        rng: Any,
        update_batch_norm: bool,
        dropout_rate: float = 0.0,
    ) -> tuple[Tensor, None]:
        """Return the outputs, without a graph in evaluation; no model has dropout.

        Batch normalisation keeps its running statistics in the module; they change in training with
        ``update_batch_norm``.
        """
        del model_state, rng, dropout_rate
        evaluating = mode is ForwardPassMode.EVAL
        params.train(not evaluating)
        if not evaluating:
            params.apply(functools.partial(_track_statistics, track=update_batch_norm))
        with torch.no_grad() if evaluating else contextlib.nullcontext():
            return params(augmented_and_preprocessed_input_batch["inputs"]), None

    def loss_fn(
        self,
        label_batch: Tensor,
        logits_batch: Tensor,
        mask_batch: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch, of this process alone.

        Args:
            label_batch: classes [batch] or, one per token, [batch, length]; or targets [batch, outputs].
            logits_batch: [batch, outputs] or [batch, length, outputs].
            mask_batch: weight of each example or token, in the shape of ``per_example``; None for ones.
            label_smoothing: share of the uniform distribution in the targets of a cross-entropy.

        Returns:
            ``summed`` loss, ``n_valid_examples`` (of tokens where there are some) and loss ``per_example``,
            [batch] or [batch, length].
        """
        per_example = LOSSES[self.loss_type](logits_batch, label_batch, label_smoothing)
        mask = torch.ones_like(per_example) if mask_batch is None else mask_batch
        per_example = per_example * mask
        return {
            "summed": per_example.sum(),
            "n_valid_examples": mask.sum(),
            "per_example": per_example,
        }

    def _build_input_queue(
        self,
        data_rng: Any,
        split: str,
        data_dir: str,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Return the queue of a split: this process's share of each global batch."""
        del data_dir, cache, num_batches
        queue = self._numpy_queue(data_rng, split, global_batch_size, repeat_final_dataset)
        return _PlacedQueue(queue, processes())

    def _metric_sums(self, params: Any, batch: Any, model_state: Any, rng: Any) -> dict[str, float]:
        """Return the summed metrics of one batch, over all processes."""
        outputs, _ = self.model_fn(
            params, batch, model_state, ForwardPassMode.EVAL, rng, update_batch_norm=False
        )
        targets, weights = batch["targets"], batch["weights"]
        loss = self.loss_fn(targets, outputs, weights)
        sums = {"loss": loss["summed"], "weights": loss["n_valid_examples"]}
        if self.loss_type is LossType.SOFTMAX_CROSS_ENTROPY:
            sums["accuracy"] = ((outputs.argmax(dim=-1) == targets) * weights).sum()
        if processes().distributed:
            for value in sums.values():
                dist.all_reduce(value)
        return {metric: value.item() for metric, value in sums.items()}


def _track_statistics(module: nn.Module, track: bool) -> None:
    """Let batch normalisation move its running statistics in training, or leave them as they are."""
    if isinstance(module, nn.BatchNorm2d):
        module.track_running_stats = track


class _PlacedQueue:
    """Takes this process's share of each batch and puts it on its device.

    Args:
        queue: global batches in NumPy.
        here: who this process is.
    """

    def __init__(self, queue: Iterator[dict[str, np.ndarray]], here: Processes):
        self._queue = queue
        self._here = here

    def __iter__(self) -> "_PlacedQueue":
        return self

    def __next__(self) -> dict[str, Tensor]:
        return {name: self._place(array) for name, array in next(self._queue).items()}

    def _place(self, array: np.ndarray) -> Tensor:
        """One process's contiguous share of an array."""
        share = len(array) // self._here.world_size
        start = self._here.rank * share
        return torch.as_tensor(array[start : start + share], device=self._here.device)

    def skip(self, batches: int) -> None:
        """Advance the queue underneath."""
        self._queue.skip(batches)
