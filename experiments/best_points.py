"""The best trial of every submission and workload, as search spaces of one point to run again.

The best of a few trials is lucky as well as good. What it is worth show seeds that it was not chosen on.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Any

from experiments import options, records
from experiments.errors import ExperimentError
from experiments.records import Record
from experiments.submissions import FRAMEWORKS


def best(found: Sequence[Record]) -> Record:
    """Return the trial with the fewest steps to the target, or with the best metric if none is there.

    Args:
        found: trials with a result on one workload, at least one.
    """

    def rank(record: Record) -> tuple[float, float]:
        sign = 1.0 if record.goal["minimise"] else -1.0
        return record.steps_to_target, sign * record.best

    return min(found, key=rank)


def spaces(found: Sequence[Record], framework: str) -> dict[str, list[dict[str, Any]]]:
    """Return ``<submission>_<workload>`` ↦ a list of one point.

    Trials without hyperparameters or without a result do not count.

    Args:
        found: trials of any submissions, workloads and frameworks.
        framework: whose trials to take.

    Raises:
        ExperimentError: if there is none, naming the framework.
    """
    trials: dict[str, list[Record]] = {}
    for record in found:
        spec = record.spec
        if spec.framework == framework and spec.hyperparameters and not math.isnan(record.best):
            trials.setdefault(f"{spec.submission}_{spec.workload}", []).append(record)
    if not trials:
        raise ExperimentError(
            f"there are no trials with hyperparameters and a result in {framework}"
        )
    return {name: [dict(best(own).spec.hyperparameters or {})] for name, own in trials.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one search space per submission and workload.

    Args:
        arguments: of the command line by default.

    Returns:
        0, or 2 for an error that the caller can set right.
    """
    parser = argparse.ArgumentParser(
        prog="best_points.py",
        description="Write the best trial of every submission and workload as a search space of one point, "
        "OUT/<submission>_<workload>.json.",
    )
    options.add_record_folders(parser)
    parser.add_argument("--framework", choices=FRAMEWORKS, default="pytorch")
    parser.add_argument("--out", type=options.folder, required=True)
    chosen = parser.parse_args(arguments)
    try:
        found = spaces(records.load_all(*chosen.folders), chosen.framework)
        chosen.out.mkdir(parents=True, exist_ok=True)
        for name, points in sorted(found.items()):
            path = chosen.out / f"{name}.json"
            path.write_text(json.dumps(points, indent=2) + "\n", encoding="utf-8")
            print(path)
    except (ExperimentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
