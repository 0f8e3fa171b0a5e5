"""Hyperparameters of a study's trials: listed points, or quasi-random ones from ranges.

Both come from the runner's own reading of AlgoPerf's format; one seed gives one set of points.
"""

from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError
from experiments.submissions import ROOT
from workloads_extra.runner.errors import RunnerError
from workloads_extra.runner.search_space import load_trials


def of_study(space: str, trials: int, seed: int, root: Path = ROOT) -> list[dict[str, Any]]:
    """Return the points of a study.

    Args:
        space: JSON file, relative to the repository. A list of points is taken from its beginning and is
            the same in every study; ranges are sampled with a Halton sequence shifted by the seed.
        trials: how many, ≥ 1.
        seed: of the study.
        root: of the repository.

    Returns:
        One point per trial.

    Raises:
        ExperimentError: for a malformed file, or a list with fewer points than trials: budgets would differ.
    """
    path = root / space
    try:
        found = load_trials(str(path), trials, seed)
    except RunnerError as error:
        raise ExperimentError(str(error)) from error
    if len(found) < trials:
        raise ExperimentError(
            f"{space} lists {len(found)} points where {trials} trials per study are wanted; "
            "lower --trials, or give ranges instead of points (--points ranges)"
        )
    return [point._asdict() for point in found]
