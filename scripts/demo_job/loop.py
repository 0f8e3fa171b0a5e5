"""One run: train, stop the clock to evaluate, stop at the target."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from scripts.demo_job.tasks import Task

BEYOND_TARGET = 1.25
"""A run goes on to this multiple of the steps it needed, so that its curve crosses the target."""


class Trainer(Protocol):
    """A model and its optimizer in one framework."""

    def warm_up(self) -> None:
        """Compile and touch everything a step needs, leaving weights and optimizer as they are."""
        ...

    def step(self, indices: np.ndarray) -> None:
        """Take one training step on the examples of these indices."""
        ...

    def wait(self) -> None:
        """Return once all steps are really done."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Return at least ``measure``, the number that the target is about."""
        ...


@dataclass
class Run:
    """What a run measured.

    Attributes:
        curve: one record per evaluation: ``step``, ``seconds``, ``measure`` and what else the trainer
            evaluates. Seconds hold training steps only.
        steps_to_target: steps at the first evaluation at or below the target, None if there is none.
        seconds_to_target: training seconds up to there.
        diverged: did the measure become NaN or infinite; the run then ends.
    """

    curve: list[dict[str, float]] = field(default_factory=list)
    steps_to_target: int | None = None
    seconds_to_target: float | None = None
    diverged: bool = False

    @property
    def best(self) -> float:
        """The lowest finite measure, infinity before the first evaluation."""
        values = [point["measure"] for point in self.curve]
        return min((value for value in values if math.isfinite(value)), default=math.inf)


def train(
    task: Task,
    trainer: Trainer,
    indices: Iterator[np.ndarray],
    on_evaluation: Callable[[Run], None] = lambda run: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Run:
    """Train until the target is passed, the steps are used up, or the measure is not finite.

    Args:
        task: target, evaluation interval and largest number of steps.
        trainer: model and optimizer; warmed up here, outside of the clock.
        indices: training batches.
        on_evaluation: called after every evaluation.
        clock: seconds since some moment.
    """
    trainer.warm_up()
    run, seconds, step, last_step = Run(), 0.0, 0, task.max_steps
    _record(task, run, step, seconds, trainer.evaluate())
    while step < last_step and not run.diverged:
        start = clock()
        for _ in range(task.evaluate_every):
            trainer.step(next(indices))
        trainer.wait()
        seconds += clock() - start
        step += task.evaluate_every
        _record(task, run, step, seconds, trainer.evaluate())
        if run.steps_to_target is not None:
            last_step = min(task.max_steps, math.ceil(BEYOND_TARGET * run.steps_to_target))
        on_evaluation(run)
    return run


def _record(task: Task, run: Run, step: int, seconds: float, values: dict[str, float]) -> None:
    run.curve.append({"step": step, "seconds": seconds, **values})
    run.diverged = not math.isfinite(values["measure"])
    if run.steps_to_target is None and values["measure"] <= task.target:
        run.steps_to_target, run.seconds_to_target = step, seconds
