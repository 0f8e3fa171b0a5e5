"""Set targets and budgets of the extra workloads: ``python -m workloads_extra.set_targets [NAME …]``.

The procedure is AlgoPerf's on a small scale, with NadamW under warm-up and cosine decay as the baseline:

1. Tune: run the baseline for the workload's budget of steps at ``--trials`` points of the search space and
   keep the point with the best validation metric. Where the validation target is stated (grokking: 99 %
   accuracy), keep the one that is there at the earliest evaluation, the first of several; a run ends at
   `PATIENCE` times the fewest steps so far.
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
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads_extra import registry, rng, targets
from workloads_extra.runner.search_space import load_trials
from workloads_extra.runner.storage import read_json, write_json
from workloads_extra.runner.submission import Submission, load_submission

ROOT = Path(__file__).parents[1]
BASELINES = ROOT / "submissions" / "baselines"
SEARCH_SPACE = ROOT / "tuning_search_spaces" / "ranges" / "nadamw.json"
EVALUATIONS = 50
"""Evaluations within a budget of steps."""

PATIENCE = 1.5
"""Steps that a run may take until it reaches a stated target, in units of the fewest so far."""

SLACK = 4.0
SHORTEST_RUNTIME = 20.0

BUDGETS = {
    "rosenbrock": 2000,
    "digits": 1000,
    "digits_autoencoder": 2000,
    "digits_conv": 600,
    "char_lm": 1000,
    "grokking": 3000,
}
"""Steps of the baseline, by base workload."""

OWN_BUDGETS = {"grokking_mini": 1500}
"""Steps of the baseline where a variant needs another number."""

STATED_TARGETS = {"grokking": 0.99}
"""Targets that are part of the definition of a workload, by base workload."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one run of the baseline came to.

    Attributes:
        validation: best validation metric.
        test: test metric at that evaluation.
        step: of that evaluation.
        seconds: training time of the whole run, without evaluations.
    """

    validation: float
    test: float
    step: int
    seconds: float


class NotReachedError(Exception):
    """The baseline does not reach a stated target."""


class Journal:
    """Finished runs, kept in a file so that an interrupted command need not repeat them.

    Args:
        path: of the file; None to keep nothing.

    Raises:
        ValueError: if the file is there and is something else.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._runs: dict[str, dict[str, Any]] = {}
        if path is None or not path.exists():
            return
        try:
            self._runs = read_json(path)
            for run in self._runs.values():
                Outcome(**run)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a journal of this command: {error}") from error

    def outcome(self, run: dict[str, Any], make: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of a run, from the file if it is there.

        Args:
            run: everything that the outcome depends on but the code.
            make: makes the run.
        """
        key = json.dumps(run, sort_keys=True)
        if key not in self._runs:
            self._runs[key] = vars(make())
            if self._path is not None:
                write_json(self._path, self._runs)
        return Outcome(**self._runs[key])


class Baseline:
    """Runs NadamW on one workload.

    Args:
        name: of the workload.
        framework: ``jax`` or ``pytorch``.
        journal: keeps finished runs; none by default.
    """

    def __init__(self, name: str, framework: str, journal: Journal | None = None):
        self._name, self._journal = name, journal or Journal(None)
        self._workload = registry.make_workload(name, framework)
        self._framework = framework
        self._submission: Submission = load_submission(
            str(BASELINES / f"nadamw_{framework}" / "submission.py")
        )
        base = registry.base_name(name)
        self.steps = OWN_BUDGETS.get(name, BUDGETS[base])
        self.period = max(self.steps // EVALUATIONS, 1)
        self.batch_size = self._submission.get_batch_size(base)
        self.stated_target = STATED_TARGETS.get(base)
        self.minimise = self._workload.target_metric_name == "loss"
        self.floor = self._workload.target_floor

    def better(self, value: float, other: float) -> bool:
        """Return whether a metric is strictly better than another one; nothing is worse than NaN."""
        if math.isnan(other):
            return not math.isnan(value)
        return value < other if self.minimise else value > other

    def run(self, hyperparameters: Any, seed: int, max_steps: int) -> Outcome:
        """Train for a number of steps, or until the stated target is reached.

        Args:
            hyperparameters: of the baseline.
            seed: of data and model.
            max_steps: where to stop; the schedule ends at the budget in any case.

        Returns:
            The outcome.
        """
        settings = {
            "workload": self._name,
            "framework": self._framework,
            "batch_size": self.batch_size,
            "budget": self.steps,
            "hyperparameters": hyperparameters._asdict(),
            "seed": seed,
            "max_steps": max_steps,
        }
        return self._journal.outcome(settings, lambda: self._run(hyperparameters, seed, max_steps))

    def _run(self, hyperparameters: Any, seed: int, max_steps: int) -> Outcome:
        """Train; see `run`."""
        data_rng, model_rng, optimizer_rng, eval_rng = rng.split(
            rng.make_rng(self._framework, seed), 4
        )
        workload, submission = self._workload, self._submission
        queue = workload._build_input_queue(data_rng, "train", "", self.batch_size)
        params, model_state = workload.init_model_fn(model_rng)
        state = submission.init_optimizer_state(
            workload, params, model_state, hyperparameters, optimizer_rng
        )
        best, evaluating = None, 0.0
        start = time.perf_counter()
        for step in range(1, max_steps + 1):
            state, params, model_state = submission.update_params(
                workload,
                params,
                workload.model_params_types,
                model_state,
                hyperparameters,
                next(queue),
                workload.loss_type,
                state,
                [],
                step - 1,
                rng.fold_in(optimizer_rng, step),
            )
            if step % self.period == 0 or step == max_steps:
                before = time.perf_counter()
                found = self._evaluate(params, model_state, eval_rng, step)
                evaluating += time.perf_counter() - before
                best = (
                    found
                    if best is None or self.better(found.validation, best.validation)
                    else best
                )
                if self.stated_target is not None and self.reaches(best):
                    break
        seconds = (time.perf_counter() - start - evaluating) * self.steps / step
        return Outcome(**{**vars(best), "seconds": seconds})

    def _evaluate(self, params: Any, model_state: Any, eval_rng: Any, step: int) -> Outcome:
        """Metrics of a step."""
        metrics = self._workload.eval_model(
            self._workload.eval_batch_size, params, model_state, eval_rng, "", None, step
        )
        name = self._workload.target_metric_name
        return Outcome(
            validation=metrics[f"validation/{name}"],
            test=metrics[f"test/{name}"],
            step=step,
            seconds=0.0,
        )

    def reaches(self, outcome: Outcome) -> bool:
        """Return whether a run reached the stated target; always where none is stated."""
        target = self.stated_target
        return target is None or not self.better(target, outcome.validation)

    def tune(self, points: Sequence[Any], seed: int, report: Callable[[str], None]) -> list[Any]:
        """Return points of the search space, the best first: with a stated target, those that reach it.

        Args:
            points: hyperparameters to try.
            seed: of data and model, the same for all.
            report: called with a line of text after every run.
        """
        reached, best, limit = [], None, self.steps
        for number, point in enumerate(points, start=1):
            outcome = self.run(point, seed, limit)
            report(f"  {number}/{len(points)} {outcome} {point}")
            if self.stated_target is not None and self.reaches(outcome):
                reached.append((outcome.step, number, point))
                evaluations = math.ceil(PATIENCE * outcome.step / self.period)
                limit = min(limit, evaluations * self.period)
            if best is None or self.better(outcome.validation, best[0].validation):
                best = outcome, point
        return [point for *_, point in sorted(reached)] or [best[1]]

    def repeat(self, points: Sequence[Any], seeds: Sequence[int]) -> tuple[Any, list[Outcome]]:
        """Return the first point whose runs mostly reach a stated target, and its runs.

        Args:
            points: hyperparameters, the best first.
            seeds: of data and model, one per run.

        Raises:
            NotReachedError: if there is none.
        """
        for point in points:
            outcomes: list[Outcome] = []
            for seed in seeds:
                outcomes.append(self.run(point, seed, self.steps))
                print(f"  repeat {outcomes[-1]} {point}", flush=True)
                missed = len(outcomes) - sum(map(self.reaches, outcomes))
                if 2 * missed >= len(seeds):
                    break
            else:
                return point, outcomes
        raise NotReachedError(
            f"no point reaches {self.stated_target} on {self._name} in most of {len(seeds)} runs of "
            f"{self.steps} steps; try more points (--trials) or a longer budget (BUDGETS)"
        )


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
