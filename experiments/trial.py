"""One trial in this process: ``python -m experiments.trial FOLDER`` runs that of FOLDER/spec.json.

Engines call :func:`run`. Whatever goes wrong inside a trial ends in its record, with the reason.
"""

import math
import os
import shutil
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments import records
from experiments.plan import TrialSpec
from experiments.records import Record
from experiments.submissions import ROOT
from workloads_extra import registry, targets
from workloads_extra.runner.options import parse
from workloads_extra.runner.single import Outcome, TrialRunner, make_runtime
from workloads_extra.runner.storage import read_json, write_json
from workloads_extra.runner.submission import load_submission

SPEC = "spec.json"
REASON_LENGTH = 300


def prepare(spec: TrialSpec, root: Path) -> Path:
    """Make a trial's folder, without what an interrupted start left unless that goes on from a checkpoint.

    Args:
        spec: of the trial.
        root: folder of the comparison.

    Returns:
        The folder, with ``spec.json`` in it.
    """
    directory = spec.directory(root)
    if directory.exists() and not (spec.save_checkpoints and _belongs(directory, spec)):
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / records.RECORD).unlink(missing_ok=True)
    # Until its record is there a trial has nothing to lose, so nobody waits for the disk.
    content = {"root": str(root.resolve()), "spec": asdict(spec)}
    write_json(directory / SPEC, content, durable=False)
    return directory


def _belongs(directory: Path, spec: TrialSpec) -> bool:
    """Is what lies in a folder of a trial with the same settings."""
    try:
        content = read_json(directory / SPEC)
        return TrialSpec(**content["spec"]).fingerprint() == spec.fingerprint()
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return False


def run(spec: TrialSpec, root: Path) -> Record | None:
    """Run a trial and write its record, also when it fails.

    Args:
        spec: of the trial.
        root: folder of the comparison.

    Returns:
        The record; None in a process that shares the trial and does not write.
    """
    started = time.perf_counter()
    result, curve, goal = None, {}, {}
    with _Guard() as guard:
        goal = _goal(spec)
        outcome = _train(spec, root)
        result, curve = asdict(outcome.result), _curve(outcome)
    if int(os.environ.get("RANK", "0")) > 0:
        return None
    record = Record(
        spec=spec,
        fingerprint=spec.fingerprint(),
        goal=goal,
        result=result,
        reason=guard.reason,
        curve=curve,
        wall_seconds=time.perf_counter() - started,
        about=records.about(),
    )
    records.save(record, root)
    return record


class _Guard:
    """Takes note of whatever ends a trial, since a submission may fail in any way; prints the traceback."""

    reason: str | None = None

    def __enter__(self) -> "_Guard":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None or isinstance(error, KeyboardInterrupt):
            return False
        traceback.print_exception(error)
        self.reason = describe(error)
        return True


def failure(spec: TrialSpec, reason: str, wall_seconds: float = 0.0) -> Record:
    """Return the record of a trial whose process ended without writing one."""
    return Record(
        spec=spec,
        fingerprint=spec.fingerprint(),
        goal={},
        result=None,
        reason=reason,
        wall_seconds=wall_seconds,
        about=records.about(),
    )


def describe(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= REASON_LENGTH else text[: REASON_LENGTH - 1] + "…"


def _train(spec: TrialSpec, root: Path) -> Outcome:
    """Run the runner's trial."""
    os.chdir(ROOT)
    directory = spec.directory(root)
    options = parse(flags(spec, directory))
    workload = registry.make_workload(spec.workload, spec.framework)
    runtime = make_runtime(spec.framework)
    try:
        runner = TrialRunner(workload, load_submission(spec.path), runtime, options)
        outcome = runner.run(
            directory,
            spec.hyperparameters,
            spec.space or "",
            spec.seed,
            number=spec.trial,
            label=spec.title,
        )
        # A process that left first would break the connections of one still at work.
        runtime.agree(0.0)
    finally:
        runtime.close()
    return outcome


def flags(spec: TrialSpec, directory: Path) -> list[str]:
    """Flags of ``python -m workloads_extra.run`` that state the same trial."""
    values = {
        "workload": spec.workload,
        "framework": spec.framework,
        "submission_path": spec.path,
        "tuning_ruleset": spec.ruleset,
        "tuning_search_space": spec.space,
        "rng_seed": spec.seed,
        "max_global_steps": spec.max_global_steps,
        "eval_period_steps": spec.eval_period_steps,
        "runtime_factor": spec.runtime_factor,
        "ignore_test_target": spec.ignore_test_target,
        "ignore_targets": spec.ignore_targets,
        "clock": spec.clock,
        "save_checkpoints": spec.save_checkpoints,
        "save_intermediate_checkpoints": False,
        "experiment_dir": directory.parents[2],
        "experiment_name": directory.parents[1].name,
    }
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _goal(spec: TrialSpec) -> dict[str, Any]:
    """Metric and target of a workload; loads the framework."""
    metric = registry.workload_class(spec.workload, spec.framework).target_metric_name
    return {
        "metric": f"validation/{metric}",
        "validation_target": targets.of(spec.workload).validation_target,
        "minimise": metric == "loss",
    }


def _curve(outcome: Outcome) -> dict[str, list[float]]:
    """Columns of the evaluations: steps, seconds, and every metric of every split."""
    rows = outcome.progress.eval_results
    names = [name for name in (rows[0][1] if rows else {}) if "/" in name]
    return {
        "step": [float(step) for step, _ in rows],
        "seconds": [metrics["accumulated_submission_time"] for _, metrics in rows],
        **{
            name: [_number(metrics.get(name)) for _, metrics in rows]
            for name in names
            if not name.endswith("num_examples")
        },
    }


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def main(arguments: list[str]) -> int:
    """Run the trial of a folder.

    Args:
        arguments: the folder.

    Returns:
        0; 1 if the trial failed.
    """
    content = read_json(Path(arguments[0]) / SPEC)
    record = run(TrialSpec(**content["spec"]), Path(content["root"]))
    return int(record is not None and record.failed)


if __name__ == "__main__":
    from workloads_extra.run import leave

    leave(main(sys.argv[1:]))
