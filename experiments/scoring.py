"""AlgoPerf's scores: times to target, performance profiles and their integral.

    t(s, w) = median over studies of the least time to target among the study's trials
    r(s, w) = t(s, w) / min_s t(s, w), infinite above 4
    ρ_s(τ) = share of the workloads with r(s, w) ≤ τ
    B(s) = ∫₁⁴ ρ_s(τ) dτ / 3, by the trapezoid rule at 100 points

A trial that misses the target, or fails, takes infinitely long. "Time" is submission time in seconds or,
where that is wanted, steps. AlgoPerf's documentation states the least time among a study's trials; its script
takes the trial that is there after the fewest evaluations, which is the same trial where evaluations are
equally spaced in time.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

LARGEST_RATIO = 4.0
POINTS = 100

Studies = Sequence[Sequence[float]]
"""Times to target by study and trial."""
Times = Mapping[str, Mapping[str, float]]
"""Submission ↦ workload ↦ t(s, w)."""


def study_times(studies: Studies) -> list[float]:
    """Return the least time among the trials of every study, infinity for one without trials."""
    return [min(trials, default=math.inf) for trials in studies]


def workload_time(studies: Studies) -> float:
    """Return t(s, w); infinity without studies."""
    return median(study_times(studies)) if studies else math.inf


def ratios(times: Times) -> dict[str, dict[str, float]]:
    """Return r(s, w), infinite where it is above 4 or nobody reaches the target.

    Args:
        times: every submission has the same workloads; a missing one counts as missed.
    """
    workloads = {name for row in times.values() for name in row}
    best = {name: min(row.get(name, math.inf) for row in times.values()) for name in workloads}
    return {
        submission: {
            name: _ratio(row.get(name, math.inf), best[name]) for name in sorted(workloads)
        }
        for submission, row in times.items()
    }


def _ratio(time: float, best: float) -> float:
    if math.isinf(time) or time > LARGEST_RATIO * best:
        return math.inf
    # Nothing takes no time: two that are there at once are equal.
    return time / best if best > 0.0 else 1.0


def profiles(times: Times, taus: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return ρ_s(τ) of every submission.

    Args:
        times: t(s, w).
        taus: values of τ; the 100 points of the score by default.

    Returns:
        Submission ↦ values in [0, 1], one per τ.
    """
    taus = score_taus() if taus is None else taus
    return {
        submission: np.mean([[r <= tau for tau in taus] for r in row.values()], axis=0)
        for submission, row in ratios(times).items()
    }


def score_taus() -> np.ndarray:
    """Return the points of the integral."""
    return np.linspace(1.0, LARGEST_RATIO, POINTS)


def scores(times: Times) -> dict[str, float]:
    """Return B(s), in [0, 1], of every submission."""
    taus = score_taus()
    return {
        submission: float(np.diff(taus) @ (values[1:] + values[:-1]) / 2.0 / (taus[-1] - taus[0]))
        for submission, values in profiles(times, taus).items()
    }
