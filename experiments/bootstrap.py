"""Intervals over seeds: studies are drawn again with replacement, the same draw for all submissions.

Study k has the same seeds under every submission, so a draw of studies is a draw of seeds and ratios are
paired. With three studies there are ten different draws: such an interval says little more than the range.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from experiments import scoring

DRAWS = 2000
LEVEL = 0.95

StudyTimes = Mapping[str, Mapping[str, Sequence[float]]]
"""Submission ↦ workload ↦ time to target by study."""


class Interval(NamedTuple):
    """Where a number lies in :data:`LEVEL` of the draws; NaN if it is undefined in most of them."""

    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Return the interval of values, some of which may be infinite or undefined.

    Args:
        values: one per draw.

    Returns:
        Values of order, never means of two, so infinities stay what they are.
    """
    known = np.sort([value for value in values if not math.isnan(value)])
    if 2 * len(known) <= len(values):
        return Interval(math.nan, math.nan)
    tail = (1.0 - LEVEL) / 2.0
    last = len(known) - 1
    return Interval(known[math.floor(tail * last)], known[math.ceil((1.0 - tail) * last)])


def draws(studies: int, number: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Return indices of studies, [number, studies]."""
    return np.random.default_rng(seed).integers(studies, size=(number, studies))


def ratio_interval(times: Sequence[float], reference: Sequence[float], seed: int = 0) -> Interval:
    """Return the interval of the ratio of medians.

    Args:
        times: by study.
        reference: by study, the same seeds.
        seed: of the draws.

    Returns:
        The interval; 0 where the reference alone misses the target, infinity where it alone is there.
    """
    count = min(len(times), len(reference))
    return interval(
        [
            ratio(median(times[k] for k in draw), median(reference[k] for k in draw))
            for draw in draws(count, seed=seed)
        ]
    )


def ratio(time: float, reference: float) -> float:
    """Return time / reference: infinity if only the reference is finite, NaN if neither is."""
    if math.isinf(reference):
        return math.nan if math.isinf(time) else 0.0
    return time / reference if reference > 0.0 else math.nan


def score_intervals(times: StudyTimes, number: int = 500, seed: int = 0) -> dict[str, Interval]:
    """Return the interval of every submission's score.

    Args:
        times: submission ↦ workload ↦ time by study.
        number: of draws.
        seed: of the draws.

    Returns:
        Submission ↦ interval.
    """
    counts: dict[str, int] = {}
    for rows in times.values():
        for workload, row in rows.items():
            counts[workload] = min(len(row), counts.get(workload, len(row)))
    if not counts or not min(counts.values()):
        return {name: Interval(math.nan, math.nan) for name in times}
    # Workloads with as many studies share their draws, since they share their seeds.
    chosen = {count: draws(count, number, seed) for count in set(counts.values())}
    found: dict[str, list[float]] = {name: [] for name in times}
    for k in range(number):
        drawn = {
            name: {
                workload: median(row[study] for study in chosen[counts[workload]][k])
                for workload, row in rows.items()
            }
            for name, rows in times.items()
        }
        for name, value in scoring.scores(drawn).items():
            found[name].append(value)
    return {name: interval(values) for name, values in found.items()}
