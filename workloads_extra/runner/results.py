"""Outcome of a trial, and the file that says a trial is over."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads_extra.runner.checkpoints import Progress
from workloads_extra.runner.storage import read_json

RESULT = "result.json"


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Outcome of a trial.

    Attributes:
        trial: number, from 1.
        submission_time: seconds of it until the trial stopped.
        global_step: steps until it stopped.
        stopped_by: ``targets``, ``max_runtime``, ``max_global_steps`` or ``submission``.
        time_to_target: submission time of the first evaluation at the validation target, None if never.
        steps_to_target: its step.
        best_validation: best value of the target metric on the validation split, None without evaluation.
        hyperparameters: of the trial, None under the self-tuning ruleset.
    """

    trial: int
    submission_time: float
    global_step: int
    stopped_by: str
    time_to_target: float | None
    steps_to_target: int | None
    best_validation: float | None
    hyperparameters: dict[str, Any] | None


def summarise(
    workload: Any, number: int, progress: Progress, stopped_by: str, hyperparameters: Any
) -> TrialResult:
    """Put the result of a trial together.

    Args:
        workload: that was trained.
        number: of the trial, from 1.
        progress: at its end.
        stopped_by: what ended it.
        hyperparameters: named tuple, or None under the self-tuning ruleset.

    Returns:
        The result.
    """
    metric = f"validation/{workload.target_metric_name}"
    values = [metrics[metric] for _, metrics in progress.eval_results]
    best = min if workload.target_metric_name == "loss" else max
    reached = (
        (step, metrics["accumulated_submission_time"])
        for step, metrics in progress.eval_results
        if workload.has_reached_validation_target(metrics)
    )
    steps, seconds = next(reached, (None, None))
    return TrialResult(
        trial=number,
        submission_time=progress.train_state["accumulated_submission_time"],
        global_step=progress.global_step,
        stopped_by=stopped_by,
        time_to_target=seconds,
        steps_to_target=steps,
        best_validation=best(values, default=None),
        hyperparameters=None if hyperparameters is None else hyperparameters._asdict(),
    )


def finished_result(directory: Path, max_global_steps: int | None) -> TrialResult | None:
    """Return the result of a trial that has nothing left to do.

    Args:
        directory: of the trial.
        max_global_steps: of this start; one stopped by a smaller number goes on.

    Returns:
        The result, or None if the trial has to be run.
    """
    path = directory / RESULT
    if not path.exists():
        return None
    result = TrialResult(**read_json(path))
    limited = result.stopped_by == "max_global_steps"
    if limited and (max_global_steps is None or max_global_steps > result.global_step):
        return None
    return result
