"""Tuned NadamW, by which targets are set: its budgets, its runs, which point is best and whether that holds.

What a target is made of is in :mod:`workloads_extra.set_targets`.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads_extra import registry, rng
from workloads_extra.runner.storage import read_json, write_json
from workloads_extra.runner.submission import Submission, load_submission

ROOT = Path(__file__).parents[1]
BASELINES = ROOT / "submissions" / "baselines"
SEARCH_SPACE = ROOT / "tuning_search_spaces" / "ranges" / "nadamw.json"
EVALUATIONS = 50
"""Evaluations within a budget of steps."""

PATIENCE = 1.5
"""Steps that a run may take until it reaches a stated target, in units of the fewest so far."""

BUDGETS = {
    "rosenbrock": 2000,
    "digits": 1000,
    "digits_autoencoder": 2000,
    "digits_conv": 600,
    "char_lm": 1000,
    "grokking": 3000,
}
"""Steps of the baseline, by base workload."""

OWN_BUDGETS = {"grokking_mini": 1500, "grokking_power": 6000}
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
