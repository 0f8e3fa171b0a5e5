"""The plan of a comparison: every trial with all its settings and the folder it goes to.

Folders are laid out as AlgoPerf's scoring reads them: ``trials/<submission>/study_<k>/<workload>_<framework>/
trial_<n>``.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments import points
from experiments.errors import ExperimentError
from experiments.submissions import ROOT, Submission
from workloads_extra import registry, targets

TRIALS = "trials"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a trial, and when it is evaluated.

    Attributes:
        step_budget: steps as a multiple of the workload's step hint; 0 for no limit but the workload's time.
        evaluations: within the step hint, at fixed steps; 0 for AlgoPerf's period in seconds, under which
            steps to target depend on the machine's speed.
        steps: steps whatever the step hint, for trials that only have to run; None for the budget.
        time_budget: submission time as a multiple of what the workload allows; large on machines that are
            slower or busier than those the limits were set on.
        to_test_target: whether a trial goes on until the test target is reached too, as AlgoPerf's do.
        to_the_end: whether a trial goes on whatever it reaches.
        clock: ``wall``, or ``process`` for the CPU time of the trial's process.
    """

    step_budget: float = 1.0
    evaluations: int = 50
    steps: int | None = None
    time_budget: float = 1.0
    to_test_target: bool = False
    to_the_end: bool = False
    clock: str = "wall"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("step_budget", "evaluations"):
            if getattr(self, name) < 0:
                raise ExperimentError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.time_budget <= 0:
            raise ExperimentError(f"time_budget must be positive, got {self.time_budget}")
        if self.steps is not None and self.steps < 1:
            raise ExperimentError(
                f"steps must be at least 1, got {self.steps}; leave it out for none"
            )

    def of(self, workload: str) -> dict[str, int | None]:
        """Return ``max_global_steps`` and ``eval_period_steps`` of a workload."""
        hint = targets.of(workload).step_hint
        most = round(self.step_budget * hint) or None
        period = max(hint // self.evaluations, 1) if self.evaluations else None
        return {"max_global_steps": self.steps or most, "eval_period_steps": period}


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that decides a trial's outcome.

    Attributes:
        submission: label of the submission.
        framework: ``jax`` or ``pytorch``.
        ruleset: ``external`` or ``self``.
        path: of ``submission.py``.
        space: where the hyperparameters come from; None under the self-tuning ruleset.
        workload: key of the registry.
        study: number, from 0.
        trial: number, from 1.
        seed: of data and model; the same for all trials of a study, and for all submissions.
        hyperparameters: by field; None under the self-tuning ruleset.
        max_global_steps: limit on steps, or None.
        eval_period_steps: steps between evaluations, or None for the clock.
        runtime_factor: on the submission time that the workload allows.
        ignore_test_target: whether the validation target alone ends the trial.
        ignore_targets: whether no target ends it.
        save_checkpoints: whether an interrupted trial continues from its last evaluation.
        processes: that share a batch under torchrun; 1 for a plain process.
        clock: that submission time is read from, ``wall`` or ``process``.
    """

    submission: str
    framework: str
    ruleset: str
    path: str
    space: str | None
    workload: str
    study: int
    trial: int
    seed: int
    hyperparameters: dict[str, Any] | None
    max_global_steps: int | None = None
    eval_period_steps: int | None = None
    runtime_factor: float = 1.0
    ignore_test_target: bool = True
    ignore_targets: bool = False
    save_checkpoints: bool = False
    processes: int = 1
    clock: str = "wall"

    @property
    def title(self) -> str:
        """Short name for people."""
        return f"{self.workload} {self.submission} {self.framework} study {self.study} trial {self.trial}"

    def directory(self, root: Path) -> Path:
        """Return the trial's folder below the folder of the comparison."""
        study = root / TRIALS / f"{self.submission}_{self.framework}" / f"study_{self.study}"
        return study / f"{self.workload}_{self.framework}" / f"trial_{self.trial}"

    def fingerprint(self) -> str:
        """Return a hash of the settings; a record with another one belongs to another trial."""
        goals = targets.of(self.workload)
        content = {**asdict(self), "targets": vars(goals)}
        # Where files lie and how a trial is restarted change nothing about its outcome.
        for name in ("space", "save_checkpoints"):
            del content[name]
        if not self.ignore_targets:
            # Records from before there was this setting.
            del content["ignore_targets"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much tuning every submission gets.

    Attributes:
        studies: repetitions with other seeds and, where points are drawn, other points.
        trials: per study under external tuning; self-tuning submissions get one.
        seed: of the first study; the others follow.
    """

    studies: int = 3
    trials: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("studies", "trials"):
            if getattr(self, name) < 1:
                raise ExperimentError(f"{name} must be at least 1, got {getattr(self, name)}")


def make_plan(
    submissions: Sequence[Submission],
    workloads: Sequence[str],
    budget: Budget,
    limits: Limits,
    *,
    save_checkpoints: bool = False,
    processes: int = 1,
    root: Path = ROOT,
) -> list[TrialSpec]:
    """Return all trials, submissions next to each other so that they meet the same load of the machine.

    Args:
        submissions: to compare.
        workloads: keys of the registry.
        budget: of tuning.
        limits: of a trial.
        save_checkpoints: whether trials save checkpoints.
        processes: per PyTorch trial, under torchrun.
        root: of the repository.

    Returns:
        The trials, study by study.

    Raises:
        ExperimentError: for an unknown workload or a search space that does not fit the budget.
    """
    unknown = [name for name in workloads if name not in registry.WORKLOADS]
    if unknown:
        raise ExperimentError(registry.unknown_workload(unknown[0]))
    drawn = {
        (each.space, study): points.of_study(each.space, budget.trials, budget.seed + study, root)
        for each in submissions
        if each.space is not None
        for study in range(budget.studies)
    }
    return [
        TrialSpec(
            submission=each.label,
            framework=each.framework,
            ruleset=each.ruleset,
            path=each.path,
            space=each.space,
            workload=workload,
            study=study,
            trial=trial + 1,
            seed=budget.seed + study,
            hyperparameters=None if each.space is None else drawn[each.space, study][trial],
            runtime_factor=limits.time_budget,
            ignore_test_target=not limits.to_test_target,
            ignore_targets=limits.to_the_end,
            clock=limits.clock,
            save_checkpoints=save_checkpoints,
            processes=processes if each.framework == "pytorch" else 1,
            **limits.of(workload),
        )
        for workload in workloads
        for study in range(budget.studies)
        for trial in range(budget.trials)
        for each in submissions
        if each.ruleset == "external" or trial == 0
    ]
