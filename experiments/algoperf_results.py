"""Times to target from the folders that AlgoPerf's runner, or this one, leaves: the input of its scoring.

``<submission>/<study>/<workload>_<framework>/trial_<n>/eval_measurements.csv``
"""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

TIME_COLUMNS = {"seconds": "score", "steps": "global_step"}


class Goal(NamedTuple):
    """What a workload asks for.

    Attributes:
        metric: column of the validation metric.
        target: value to reach.
        minimise: whether smaller is better.
    """

    metric: str
    target: float
    minimise: bool


def times(
    submission: Path, goal: Callable[[str], Goal], measure: str = "seconds"
) -> dict[str, list[list[float]]]:
    """Return times to target of a submission's trials.

    Args:
        submission: its folder.
        goal: name of a workload's folder, with the framework ↦ its goal.
        measure: ``seconds`` of submission time, or ``steps``.

    Returns:
        Workload, with the framework ↦ study ↦ trial, infinite where the target is missed.
    """
    found: dict[str, list[list[float]]] = {}
    for folder in sorted(path for path in submission.glob("*/*") if path.is_dir()):
        trials = sorted(folder.glob("trial_*/eval_measurements.csv"))
        wanted = goal(folder.name)
        column = TIME_COLUMNS[measure]
        found.setdefault(folder.name, []).append(
            [_time_to_target(path, wanted, column) for path in trials]
        )
    return found


def _time_to_target(path: Path, goal: Goal, column: str) -> float:
    """Value of a column at the first evaluation that meets the goal."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            value = float(row.get(goal.metric) or math.nan)
            if value <= goal.target if goal.minimise else value >= goal.target:
                return float(row[column])
    return math.inf
