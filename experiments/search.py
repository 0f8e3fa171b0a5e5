"""Good hyperparameters for a submission on some workloads within a fixed budget.

A point costs, on each workload, its steps (or seconds) to the target as a share of the budget of a trial, and
:data:`MISSED` if it does not get there; over workloads the mean counts. The five points to hand in are chosen
greedily: each lowers most the mean, over workloads, of the least cost among the points chosen. External
tuning takes the fastest of five trials, so points that complement each other beat five good ones.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from experiments.errors import ExperimentError
from experiments.plan import TrialSpec
from experiments.records import Record
from workloads_extra import targets
from workloads_extra.runner.storage import write_bytes

MISSED = 2.0
HANDED_IN = 5

Point = dict[str, Any]
Costs = dict[str, float]
"""Cost by workload."""


class Tried(NamedTuple):
    """A point with what it cost on the workloads it was tried on.

    Attributes:
        point: hyperparameters.
        costs: by workload; a point that was given up early lacks some.
    """

    point: Point
    costs: Costs

    def mean(self, workloads: Sequence[str]) -> float:
        """Return the mean cost; workloads it was not tried on count as missed."""
        return fmean(self.costs.get(name, MISSED) for name in workloads)


class Proposer(Protocol):
    """Chooses points."""

    def earlier(self) -> list[Tried]:
        """Return the points that an earlier start finished with; they count towards the budget."""

    def propose(self) -> tuple[Any, Point] | None:
        """Return a handle and the next point, None when there is none left."""

    def judge(self, handle: Any, costs: Costs) -> bool:
        """Take in the costs so far; return whether the point is to be given up."""

    def finish(self, handle: Any, costs: Costs) -> None:
        """Take in all costs of a point that was not given up."""


class Listed:
    """Proposes given points, one after the other, and gives none up.

    Args:
        points: to propose.
    """

    def __init__(self, points: Sequence[Point]):
        self._points: Iterator[Point] = iter(points)

    def earlier(self) -> list[Tried]:
        """Return none: the same points come again, and the records of their trials are found."""
        return []

    def propose(self) -> tuple[None, Point] | None:
        """Return the next point."""
        point = next(self._points, None)
        return None if point is None else (None, point)

    def judge(self, handle: None, costs: Costs) -> bool:
        """Return False."""
        return False

    def finish(self, handle: None, costs: Costs) -> None:
        """Costs change nothing about the points to come."""


def cost(record: Record, measure: str = "steps") -> float:
    """Return what a trial cost.

    Args:
        record: of the trial.
        measure: ``steps``, or ``seconds`` of submission time.

    Returns:
        Share of the trial's budget, in [0, 1], or :data:`MISSED`.
    """
    goals = targets.of(record.spec.workload)
    if measure == "seconds":
        share = record.seconds_to_target / (goals.max_runtime_sec * record.spec.runtime_factor)
    else:
        share = record.steps_to_target / (record.spec.max_global_steps or goals.step_hint)
    return MISSED if math.isinf(share) else min(share, 1.0)


def search(
    templates: Sequence[TrialSpec],
    proposer: Proposer,
    run: Callable[[Sequence[TrialSpec]], list[Record]],
    *,
    points: int,
    seconds: float = math.inf,
    at_a_time: int = 1,
    measure: str = "steps",
    clock: Callable[[], float] = time.monotonic,
) -> list[Tried]:
    """Try points until the budget is used up.

    Args:
        templates: a trial per workload, into which points and numbers are put.
        proposer: chooses points.
        run: runs trials and returns their records.
        points: to try at most.
        seconds: after which no point is begun.
        at_a_time: points that are tried together, workload by workload.
        measure: of cost.
        clock: seconds since some moment.

    Returns:
        The points with their costs, in the order in which they were proposed, those of earlier starts first.
    """
    tried = proposer.earlier()
    end = clock() + seconds
    while len(tried) < points and clock() < end:
        group = _propose(proposer, min(at_a_time, points - len(tried)))
        if not group:
            break
        numbers = range(len(tried) + 1, len(tried) + 1 + len(group))
        tried += _try(templates, proposer, run, group, numbers, measure)
    return tried


def _propose(proposer: Proposer, number: int) -> list[tuple[Any, Point]]:
    proposals = (proposer.propose() for _ in range(number))
    return [proposal for proposal in proposals if proposal is not None]


def _try(
    templates: Sequence[TrialSpec],
    proposer: Proposer,
    run: Callable[[Sequence[TrialSpec]], list[Record]],
    group: Sequence[tuple[Any, Point]],
    numbers: Iterable[int],
    measure: str,
) -> list[Tried]:
    """Try points on one workload after the other, leaving out those given up."""
    costs: list[Costs] = [{} for _ in group]
    numbers, alive = list(numbers), list(range(len(group)))
    for template in templates:
        specs = [replace(template, trial=numbers[k], hyperparameters=group[k][1]) for k in alive]
        for k, record in zip(alive, run(specs), strict=True):
            costs[k][template.workload] = cost(record, measure)
        if template is not templates[-1]:
            alive = [k for k in alive if not proposer.judge(group[k][0], costs[k])]
    for k in alive:
        proposer.finish(group[k][0], costs[k])
    return [Tried(point, found) for (_, point), found in zip(group, costs, strict=True)]


def choose(
    tried: Sequence[Tried], workloads: Sequence[str], number: int = HANDED_IN
) -> list[Tried]:
    """Return the points to hand in, the most useful first.

    Args:
        tried: at least ``number`` different points.
        workloads: on which they were tried.
        number: how many.

    Returns:
        The chosen ones.

    Raises:
        ExperimentError: for too few different points.
    """
    different = {json.dumps(each.point, sort_keys=True): each for each in tried}
    left = list(different.values())
    if len(left) < number:
        raise ExperimentError(
            f"{number} different points are handed in, only {len(left)} were tried; raise the budget"
        )
    least = dict.fromkeys(workloads, math.inf)
    chosen: list[Tried] = []
    while len(chosen) < number:
        best = min(left, key=lambda each: (_with(least, each), each.mean(workloads)))
        left.remove(best)
        chosen.append(best)
        least = {name: min(least[name], best.costs.get(name, MISSED)) for name in workloads}
    return chosen


def _with(least: Costs, each: Tried) -> float:
    """Mean least cost if a point is added."""
    return fmean(min(value, each.costs.get(name, MISSED)) for name, value in least.items())


def write_space(chosen: Sequence[Tried], path: Path) -> None:
    """Write points as a search space that AlgoPerf's runner accepts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([each.point for each in chosen], indent=2)
    write_bytes(path, f"{text}\n".encode())
