"""Sums over the processes of a data-parallel run, and equal factors in all of them.

Tensors travel in one flat bucket per dtype. Without an initialised process group nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

ProcessGroup = Any
"""A ``torch.distributed.ProcessGroup``; that class is missing where torch is built without it."""


def world_size(group: ProcessGroup | None = None) -> int:
    """Return the number of processes, 1 without ``torch.distributed``."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def share(count: int, group: ProcessGroup | None = None) -> int:
    """Return how many of ``count`` examples this process takes.

    Raises:
        ValueError: if there are fewer examples than processes.
    """
    size = world_size(group)
    if count < size:
        raise ValueError(
            f"curvature_batch_size must be at least the number of processes ({size}), got {count}; "
            "it counts the examples of all processes together"
        )
    rank = dist.get_rank(group) if size > 1 else 0
    return count // size + (1 if rank < count % size else 0)


def sum_over_processes(values: Any, group: ProcessGroup | None = None) -> Any:
    """Return nested dictionaries of tensors, summed over processes."""
    if world_size(group) == 1:
        return values
    return _exchanged(values, lambda bucket: dist.all_reduce(bucket, group=group))


@contextmanager
def failing_together(device: torch.device, group: ProcessGroup | None = None) -> Iterator[None]:
    """Raise in every process if the body raises in one, so that none waits for it in a sum.

    Raises:
        RuntimeError: if only other processes failed.
    """
    if world_size(group) == 1:
        yield
        return
    failed = torch.ones((), dtype=torch.int32, device=device)
    try:
        yield
        failed.zero_()
    finally:
        dist.all_reduce(failed, group=group)
    if int(failed):
        raise RuntimeError(
            f"linearising the model failed in {int(failed)} other process(es), whose error says why; "
            "give every process a batch that the model and loss accept"
        )


def from_first_process(values: Any, group: ProcessGroup | None = None) -> Any:
    """Return nested dictionaries of tensors as the first process has them."""
    if world_size(group) == 1:
        return values
    source = 0 if group is None else dist.get_global_rank(group, 0)
    return _exchanged(values, lambda bucket: dist.broadcast(bucket, src=source, group=group))


def _exchanged(values: Any, communicate: Callable[[Tensor], Any]) -> Any:
    leaves = list(_leaves(values))
    results: dict[int, Tensor] = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        own = [index for index, leaf in enumerate(leaves) if leaf.dtype == dtype]
        bucket = torch.cat([leaves[index].detach().reshape(-1) for index in own])
        communicate(bucket)
        pieces = bucket.split([leaves[index].numel() for index in own])
        for index, piece in zip(own, pieces, strict=True):
            results[index] = piece.reshape(leaves[index].shape)
    return _rebuilt(values, iter([results[index] for index in range(len(leaves))]))


def _leaves(values: Any) -> Iterator[Tensor]:
    if isinstance(values, dict):
        for value in values.values():
            yield from _leaves(value)
    else:
        yield values


def _rebuilt(values: Any, leaves: Iterator[Tensor]) -> Any:
    if isinstance(values, dict):
        return {key: _rebuilt(value, leaves) for key, value in values.items()}
    return next(leaves)
