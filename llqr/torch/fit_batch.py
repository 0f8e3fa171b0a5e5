"""What a fit of factors learns from its batch, in torch."""

from __future__ import annotations

from typing import Any

from torch import nn

from llqr.config import LLQRConfig
from llqr.holdout import FitBatch
from llqr.torch.batches import batch_size, every_second, first_examples
from llqr.torch.distributed import ProcessGroup, share
from llqr.torch.evaluation import ModelFunction
from llqr.torch.linearise import TorchProblem
from llqr.torch.passes import keeps_mode, tracks_statistics


def make_fit_batch(
    function: ModelFunction,
    batch: Any,
    config: LLQRConfig,
    process_group: ProcessGroup | None = None,
) -> FitBatch:
    """Return the batch, or as much of it as the settings say, as a problem to fit on.

    Args:
        function: the model and loss.
        batch: this process's batch.
        config: settings.
        process_group: processes to sum over, None for the default group if there is one.

    Returns:
        The problem, and that of every second example if the settings hold the others out and the curvature
        pass sees the function that is trained.
    """
    part = 1.0
    if config.curvature_batch_size is not None:
        count, size = share(config.curvature_batch_size, process_group), batch_size(batch)
        part = 1.0 if size is None else min(1.0, count / size)
        batch = first_examples(batch, count)

    def problem(examples: Any) -> TorchProblem:
        return TorchProblem(function, examples, config.chunk_size, process_group)

    if config.held_out is None or _normalises_otherwise(function.module):
        return FitBatch(problem(batch))
    return FitBatch(problem(batch), problem(every_second(batch)), part * config.held_out)


def _normalises_otherwise(module: nn.Module) -> bool:
    """Does training normalise by statistics of the batch, and the curvature pass by running ones."""
    return any(
        part.training and tracks_statistics(part) and not keeps_mode(part)
        for part in module.modules()
    )
