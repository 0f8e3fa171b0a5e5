"""The best trial of every submission and workload, as search spaces of one point to run again.

The best of a few trials is lucky as well as good. What it is worth show seeds that it was not chosen on.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

from experiments import options, records
from experiments.errors import ExperimentError
from experiments.records import Record


def best(found: Sequence[Record]) -> Record:
    """Return the trial with the fewest steps to the target, or with the best metric if none is there.

    Args:
        found: trials on one workload; those that failed do not count.

    Raises:
        ExperimentError: if none has a result.
    """
    usable = [record for record in found if not record.failed and not math.isnan(record.best)]
    if not usable:
        raise ExperimentError("there is no trial with a result")

    def rank(record: Record) -> tuple[float, float]:
        sign = 1.0 if record.goal["minimise"] else -1.0
        return record.steps_to_target, sign * record.best

    return min(usable, key=rank)


def spaces(found: Sequence[Record], framework: str) -> dict[str, list[dict[str, Any]]]:
    """Return ``<submission>_<workload>`` ↦ a list of one point, for all with hyperparameters.

    Args:
        found: trials of any submissions, workloads and frameworks.
        framework: whose trials to take.

    Raises:
        ExperimentError: if there is none, naming the framework.
    """
    chosen = [
        record
        for record in found
        if record.spec.framework == framework and record.spec.hyperparameters
    ]
    if not chosen:
        raise ExperimentError(f"there are no trials with hyperparameters in {framework}")
    submissions = sorted({record.spec.submission for record in chosen})
    workloads = sorted({record.spec.workload for record in chosen})
    result = {}
    for submission, workload in product(submissions, workloads):
        own = [
            record
            for record in chosen
            if (record.spec.submission, record.spec.workload) == (submission, workload)
        ]
        if own:
            hyperparameters = best(own).spec.hyperparameters
            result[f"{submission}_{workload}"] = [dict(hyperparameters or {})]
    return result


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
    parser.add_argument(
        "folders", nargs="+", type=options.folder, help="of comparisons, or of collected records"
    )
    parser.add_argument("--framework", choices=("jax", "pytorch"), default="pytorch")
    parser.add_argument("--out", type=options.folder, required=True)
    chosen = parser.parse_args(arguments)
    try:
        found = [record for folder in chosen.folders for record in records.load_all(folder)]
        chosen.out.mkdir(parents=True, exist_ok=True)
        for name, points in spaces(found, chosen.framework).items():
            path = chosen.out / f"{name}.json"
            path.write_text(json.dumps(points, indent=2) + "\n", encoding="utf-8")
            print(path)
    except (ExperimentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
