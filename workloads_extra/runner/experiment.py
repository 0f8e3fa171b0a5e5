"""An experiment: all trials of a submission on a workload, in AlgoPerf's directory layout.

``<experiment_dir>/<experiment_name>/<workload>_<framework>/trial_<n>/`` holds ``hparams.json``,
``meta_data_<k>.json``, ``flags_<k>.json`` (k counts resumptions), ``measurements.csv``,
``eval_measurements.csv``, checkpoints, and ``result.json`` once the trial is over. A finished trial is not
run again when the experiment is resumed.
"""

import datetime
import secrets
import shutil
from pathlib import Path
from typing import Any

from workloads_extra import official, registry
from workloads_extra.runner.errors import RunnerError
from workloads_extra.runner.options import OFFICIAL_ONLY
from workloads_extra.runner.results import TrialResult, finished_result
from workloads_extra.runner.search_space import load_trials
from workloads_extra.runner.single import TrialRunner, make_runtime
from workloads_extra.runner.storage import make_directory
from workloads_extra.runner.submission import load_submission


class Experiment:
    """A submission on a workload.

    Args:
        options: namespace of the flags.

    Raises:
        RunnerError: for an unknown workload or options that do not go together, before anything is written.
    """

    def __init__(self, options: Any):
        _check(options)
        self._options = options
        workload = registry.make_workload(options.workload, options.framework)
        submission = load_submission(options.submission_path)
        self._runtime = make_runtime(options.framework)
        self._runner = TrialRunner(workload, submission, self._runtime, options)
        seed = secrets.randbits(32) if options.rng_seed is None else options.rng_seed
        # All processes take the largest of their random seeds.
        self._seed = int(self._runtime.agree(seed))
        self._hyperparameters = self._all_hyperparameters()
        self._directory = self._make_directory()

    def _all_hyperparameters(self) -> list[Any]:
        """Hyperparameters of every trial; under the self-tuning ruleset there is one trial without any."""
        options = self._options
        if options.tuning_ruleset == "self":
            return [None]
        return load_trials(options.tuning_search_space, options.num_tuning_trials, self._seed)

    def _make_directory(self) -> Path:
        """Directory of the experiment on this workload."""
        options = self._options
        name = options.experiment_name
        if options.append_timestamp:
            name += datetime.datetime.now().strftime("-%Y-%m-%d-%H-%M-%S")
        root = Path(options.experiment_dir).expanduser() / name
        directory = root / f"{options.workload}_{options.framework}"
        if self._runtime.is_main:
            _claim(directory, overwrite=options.overwrite, resume=options.resume_last_run)
        self._runtime.agree(0.0)
        return directory

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints the results."""
        return self._runtime.is_main

    def run(self) -> list[TrialResult]:
        """Run the trials that are not finished.

        Returns:
            Results of all trials, those of an earlier start included.
        """
        options = self._options
        numbers = range(len(self._hyperparameters))
        selected = numbers[options.hparam_start_index : options.hparam_end_index]
        try:
            results = [self._run_trial(index) for index in selected]
            # A process that left first would break the connections of one still at work.
            self._runtime.agree(0.0)
            return results
        finally:
            self._runtime.close()

    def _run_trial(self, index: int) -> TrialResult:
        """Run one trial, or read the result it had."""
        directory = self._directory / f"trial_{index + 1}"
        finished = finished_result(directory, self._options.max_global_steps)
        if finished is not None:
            return finished
        point = self._hyperparameters[index]
        outcome = self._runner.run(
            directory,
            None if point is None else point._asdict(),
            self._options.tuning_search_space,
            self._seed,
            number=index + 1,
            label=f"{self._directory.name} trial {index + 1}/{len(self._hyperparameters)}",
        )
        return outcome.result


def _check(options: Any) -> None:
    """Refuse unknown workloads and options that do not go together.

    Raises:
        RunnerError: naming the option and the remedy.
    """
    if options.workload not in registry.WORKLOADS:
        raise RunnerError(registry.unknown_workload(options.workload) + official.absent_note())
    ignored = [name for name in OFFICIAL_ONLY if getattr(options, name)]
    if ignored:
        raise RunnerError(f"--{ignored[0]} needs AlgoPerf's own runner; add --official_runner")
    if options.tuning_ruleset == "self" and options.tuning_search_space is not None:
        raise RunnerError("--tuning_search_space is not allowed with --tuning_ruleset=self")
    if options.overwrite and options.resume_last_run:
        raise RunnerError("--overwrite and --resume_last_run exclude each other")
    if options.max_global_steps is not None and options.max_global_steps < 1:
        raise RunnerError(f"--max_global_steps must be at least 1, got {options.max_global_steps}")
    if options.runtime_factor <= 0:
        raise RunnerError(f"--runtime_factor must be positive, got {options.runtime_factor}")
    if options.eval_period_steps is not None and options.eval_period_steps < 1:
        raise RunnerError(
            f"--eval_period_steps must be at least 1, got {options.eval_period_steps}"
        )


def _claim(directory: Path, *, overwrite: bool, resume: bool) -> None:
    """Make the directory, or clear it, or agree to continue in it.

    Raises:
        RunnerError: if it exists and neither flag says what to do.
    """
    if directory.exists() and overwrite:
        shutil.rmtree(directory)
    elif directory.exists() and not resume:
        raise RunnerError(
            f"{directory} exists; continue it with --resume_last_run or --overwrite it"
        )
    make_directory(directory)
