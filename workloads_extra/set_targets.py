"""Set targets and budgets of the extra workloads: ``python -m workloads_extra.set_targets [NAME …]``.

The procedure is AlgoPerf's on a small scale, with NadamW under warm-up and cosine decay as the baseline:

1. Tune: run the baseline for the workload's budget of steps at ``--trials`` points of the search space and
   keep the point with the best validation metric. Where the validation target is stated (grokking: 99 %
   accuracy), keep the one that is there at the earliest evaluation, the first of several; a run ends at
   1.5 times the fewest steps so far.
2. Repeat: run that point with ``--repeats`` other seeds. Where most of them miss a stated target the point
   was lucky, and the next best of those that were there takes its place. ``--point N`` repeats the
   N-th point of the search space instead of tuning.
3. The validation target is the median over the repeats of their best validation metric, the test target the
   worst test metric at those evaluations (of the repeats that reach a stated target). No target on a loss is
   below what float32 resolves.
4. ``step_hint`` is the budget of steps. ``max_runtime_sec`` is `SLACK` times what the budget took here, at
   least `SHORTEST_RUNTIME`, so that a slower machine or method has a chance; ``eval_period_sec`` is its
   hundredth.

Everything but the times is a function of the command: evaluations are made at fixed steps. With
``--journal FILE`` every finished run is kept there, and the same command started again goes on from there.
"""

import argparse
import functools
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workloads_extra import registry, targets
from workloads_extra.baseline import SEARCH_SPACE, Baseline, Journal, NotReachedError
from workloads_extra.runner.search_space import load_trials
from workloads_extra.runner.storage import read_json, write_json

SLACK = 4.0
SHORTEST_RUNTIME = 20.0


def set_targets(
    name: str,
    framework: str,
    *,
    trials: int,
    repeats: int,
    seed: int,
    journal: Journal,
    number: int | None = None,
) -> dict[str, Any]:
    """Return the entry of a workload.

    Args:
        name: of the workload.
        framework: ``jax`` or ``pytorch``.
        trials: points of the search space to try.
        repeats: seeds of the best point.
        seed: of the tuning; the repeats use the following ones.
        journal: keeps finished runs.
        number: of the point to repeat, ≥ 1; None to tune.

    Returns:
        Targets, budget, and how they came about.
    """
    baseline = Baseline(name, framework, journal)
    _assume_budget(name, baseline.steps)
    points = load_trials(str(SEARCH_SPACE), trials if number is None else number, seed)
    if number is None:
        chosen = baseline.tune(points, seed, functools.partial(print, flush=True))
    else:
        chosen = [points[number - 1]]
    point, outcomes = baseline.repeat(chosen, range(seed + 1, seed + 1 + repeats))
    runtime = max(SLACK * max(outcome.seconds for outcome in outcomes), SHORTEST_RUNTIME)
    worst = max if baseline.minimise else min
    test = worst(outcome.test for outcome in outcomes if baseline.reaches(outcome))
    validation = baseline.stated_target
    if validation is None:
        validation = statistics.median(outcome.validation for outcome in outcomes)
    return {
        "validation_target": _presentable(validation, baseline),
        "test_target": _presentable(test, baseline),
        "step_hint": baseline.steps,
        "max_runtime_sec": _two_digits(runtime),
        "eval_period_sec": _two_digits(runtime / 100),
        "procedure": {
            "framework": framework,
            "trials": trials if number is None else f"none; point {number} of the search space",
            "batch_size": baseline.batch_size,
            "hyperparameters": point._asdict(),
            "repeats": [vars(outcome) for outcome in outcomes],
        },
    }


def _assume_budget(name: str, steps: int) -> None:
    """Let the baseline's schedule end at the budget, whatever the file says so far."""
    targets.assume(
        name,
        targets.Targets(
            validation_target=math.nan,
            test_target=math.nan,
            step_hint=steps,
            max_runtime_sec=math.inf,
            eval_period_sec=math.inf,
        ),
    )


def _presentable(value: float, baseline: Baseline) -> float:
    """Round towards the easier side: losses up to three digits, accuracies down to four places."""
    if not baseline.minimise:
        return math.floor(value * 1e4) / 1e4
    value = max(value, baseline.floor)
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.3g}")


def _two_digits(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.2g}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Set the targets of the named workloads and write the file after each.

    Args:
        arguments: of the command line by default.

    Returns:
        Exit status: 1 if a workload has got no targets.
    """
    parser = argparse.ArgumentParser(prog="python -m workloads_extra.set_targets")
    parser.add_argument(
        "names", nargs="*", default=list(registry.WORKLOADS), help="workloads; all by default"
    )
    parser.add_argument("--framework", choices=registry.FRAMEWORKS, default="jax")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--point", type=int, help="number of a point of the search space to repeat; do not tune"
    )
    parser.add_argument(
        "--journal", type=Path, help="file that keeps finished runs; not valid for other code"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in registry.WORKLOADS]
    if unknown:
        parser.error(registry.unknown_workload(unknown[0]))
    if options.point is not None and options.point < 1:
        parser.error(f"--point must be at least 1, got {options.point}")
    try:
        journal = Journal(options.journal)
    except ValueError as error:
        parser.error(str(error))
    status = 0
    for name in options.names:
        print(name, flush=True)
        try:
            entry = set_targets(
                name,
                options.framework,
                trials=options.trials,
                repeats=options.repeats,
                seed=options.seed,
                journal=journal,
                number=options.point,
            )
        except NotReachedError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
            continue
        content = read_json(targets.PATH)
        content["workloads"][name] = entry
        write_json(targets.PATH, content)
        print(
            json.dumps({key: entry[key] for key in targets.Targets.__dataclass_fields__}),
            flush=True,
        )
    return status


if __name__ == "__main__":
    sys.exit(main())
