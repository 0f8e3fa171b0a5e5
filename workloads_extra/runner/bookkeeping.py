"""Settings and small parts of the training loop."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SELF_TUNING_BUDGET = 1.5
"""Runtime of a submission without external tuning, as a multiple of the workload's."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What holds for all steps of a trial.

    Attributes:
        framework: ``jax`` or ``pytorch``.
        batch_size: global, for training.
        eval_batch_size: global, for evaluation.
        max_runtime: submission time after which the trial stops, in seconds.
        max_global_steps: steps after which it stops, or None.
        eval_period_steps: steps between evaluations, or None for the workload's period in seconds.
        ignore_test_target: whether the validation target alone ends the trial.
        ignore_targets: whether no target ends it.
        data_dir: for workloads that read files.
        skip_evals: whether to never evaluate.
        save_checkpoints: whether to save one at every evaluation and at the end.
        keep_older: whether earlier checkpoints stay.
        compile_model: whether to compile PyTorch models.
        clock: key of `CLOCKS`.
    """

    framework: str
    batch_size: int
    eval_batch_size: int
    max_runtime: float
    max_global_steps: int | None = None
    eval_period_steps: int | None = None
    ignore_test_target: bool = False
    ignore_targets: bool = False
    data_dir: str = ""
    skip_evals: bool = False
    save_checkpoints: bool = True
    keep_older: bool = True
    compile_model: bool = False
    clock: str = "wall"


def wall_clock() -> float:
    """Return the seconds since 1970."""
    return time.time()


def process_clock() -> float:
    """Return seconds that pass with the CPU time of this process and its threads.

    What other processes use is not in it, nor is waiting: a trial of one thread on a CPU takes about as
    long as by the wall's clock on a core of its own. It knows nothing of the time of a GPU.
    """
    return _ORIGIN + time.process_time()


_ORIGIN = time.time() - time.process_time()
CLOCKS = {"wall": wall_clock, "process": process_clock}
"""Clocks that submission time is read from."""


def new_train_state() -> dict[str, Any]:
    """Return the times and flags of a trial that has not begun, under AlgoPerf's names."""
    return {
        "validation_goal_reached": False,
        "test_goal_reached": False,
        "is_time_remaining": True,
        "last_eval_time": 0,
        "training_complete": False,
        "accumulated_submission_time": 0.0,
        "accumulated_eval_time": 0.0,
        "accumulated_logging_time": 0.0,
        "last_step_end_time": None,
    }


class CountedQueue:
    """Counts the batches that a submission draws.

    Args:
        queue: to draw from.
    """

    def __init__(self, queue: Iterator[Any]):
        self._queue = queue
        self.drawn = 0

    def __iter__(self) -> "CountedQueue":
        return self

    def __next__(self) -> Any:
        batch = next(self._queue)
        self.drawn += 1
        return batch


def skip(queue: Iterator[Any], batches: int) -> None:
    """Advance a queue, without making the batches where it can."""
    if hasattr(queue, "skip"):
        queue.skip(batches)
        return
    for _ in range(batches):
        next(queue)


class NoLogger:
    """Stands in for the logger in processes that write nothing."""

    def append_scalar_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Drop the metrics."""

    def keep_until(self, step: int) -> None:
        """There is nothing to drop."""
