"""Steps to target over batch sizes and over scales of the initial weights, with nothing else touched.

    python scripts/sensitivity.py --submissions self_tuning/llqr adamw=POINT.json --out results/sensitivity

A submission with hyperparameters is run at the first point of its search space; name a file with one point
behind ``=``. Runs take one thread each: over several, sums are rounded otherwise, and long runs take
other steps. Writes ``records.jsonl`` as it goes (started again it goes on where it was), then a table and
pictures per workload.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments import json_lines, points
from experiments.engines.environment import thread_variables
from experiments.errors import ExperimentError
from experiments.sensitivity import AXES, Setting, picture, run, table
from experiments.submissions import Submission, find
from workloads_extra import registry
from workloads_extra.runner.errors import RunnerError

BATCH_SIZES = (32, 64, 128, 256, 512, 1024)
WEIGHT_SCALES = (0.1, 0.3, 1.0, 3.0, 10.0)
KEY = ("axis", *Setting.__dataclass_fields__)


def main() -> None:
    """Run what is missing, then write tables and pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--submissions", nargs="+", default=["self_tuning/llqr"], metavar="NAME")
    parser.add_argument("--workloads", nargs="+", default=["digits"], metavar="NAME")
    parser.add_argument("--framework", choices=["jax", "pytorch"], default="pytorch")
    parser.add_argument("--batch-sizes", nargs="*", type=int, default=BATCH_SIZES, metavar="N")
    parser.add_argument(
        "--weight-scales", nargs="*", type=float, default=WEIGHT_SCALES, metavar="X"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="COUNT")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {options.seeds}")
    # Before a framework is imported, which the first run does.
    os.environ.update(thread_variables(1, on_gpu=True))
    try:
        study(options)
    except (ExperimentError, RunnerError) as error:
        parser.exit(2, f"{error}\n")


def study(options: argparse.Namespace) -> None:
    """Run what is missing, then write tables and pictures."""
    found = find(options.submissions, [options.framework])
    for name in options.workloads:
        if name not in registry.WORKLOADS:
            raise ExperimentError(registry.unknown_workload(name))
    wanted = [(each, *setting) for each in found for setting in settings(options, each)]
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "records.jsonl"
    done = {key_of(record): record for record in json_lines.read(path)}
    for number, (submission, axis, setting) in enumerate(wanted, 1):
        if key_of({"axis": axis, **vars(setting)}) not in done:
            record = {"axis": axis, **run(setting, submission, first_point(submission))}
            done[key_of(record)] = record
            json_lines.append(path, record)
        print(f"\r{number} of {len(wanted)} runs", end="", file=sys.stderr)
    print(file=sys.stderr)
    chosen = [done[key_of({"axis": axis, **vars(setting)})] for _, axis, setting in wanted]
    for workload in options.workloads:
        for axis in AXES:
            own = [r for r in chosen if r["workload"] == workload and r["axis"] == axis]
            if own:
                print(f"\n{workload}\n\n{table(own, axis)}")
                file = options.out / f"{workload}_{options.framework}_{axis}.png"
                file.write_bytes(picture(own, axis))


def settings(options: argparse.Namespace, submission: Submission) -> Iterator[tuple[str, Setting]]:
    """Yield what is varied and the setting, for every run of a submission."""
    for workload in options.workloads:
        for seed in range(options.seeds):
            common: dict[str, Any] = {
                "submission": submission.label,
                "workload": workload,
                "framework": options.framework,
                "seed": seed,
            }
            for size in options.batch_sizes:
                yield "batch_size", Setting(**common, batch_size=size)
            for scale in options.weight_scales:
                yield "weight_scale", Setting(**common, weight_scale=scale)


def first_point(submission: Submission) -> dict[str, Any] | None:
    """Return the first point of the search space, None without one."""
    return None if submission.space is None else points.of_study(submission.space, 1, 0)[0]


def key_of(record: dict[str, Any]) -> str:
    """Return what tells runs apart, as text."""
    return json.dumps([record[field] for field in KEY])


if __name__ == "__main__":
    main()
