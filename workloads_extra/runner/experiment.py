"""An experiment: all trials of a submission on a workload, in AlgoPerf's directory layout.

``<experiment_dir>/<experiment_name>/<workload>_<framework>/trial_<n>/`` holds ``hparams.json``,
``meta_data_<k>.json``, ``flags_<k>.json`` (k counts resumptions), ``measurements.csv``,
``eval_measurements.csv``, checkpoints, and ``result.json`` once the trial is over. A finished trial is not
run again when the experiment is resumed.
"""

import datetime
import secrets
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workloads_extra import official, registry
from workloads_extra.runner.bookkeeping import SELF_TUNING_BUDGET, Settings
from workloads_extra.runner.checkpoints import Progress
from workloads_extra.runner.console import ProgressLine
from workloads_extra.runner.errors import RunnerError
from workloads_extra.runner.metadata import meta_data
from workloads_extra.runner.options import OFFICIAL_ONLY
from workloads_extra.runner.results import RESULT, TrialResult, finished_result, summarise
from workloads_extra.runner.search_space import load_trials, make_hyperparameters
from workloads_extra.runner.storage import make_directory, read_json, write_json
from workloads_extra.runner.submission import batch_sizes, load_submission
from workloads_extra.runner.training import Trial


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
        self._workload = registry.make_workload(options.workload, options.framework)
        self._submission = load_submission(options.submission_path)
        self._runtime = _make_runtime(options.framework)
        self._settings = self._make_settings()
        seed = secrets.randbits(32) if options.rng_seed is None else options.rng_seed
        # All processes take the largest of their random seeds.
        self._seed = int(self._runtime.agree(seed))
        self._hyperparameters = self._all_hyperparameters()
        self._directory = self._make_directory()

    def _make_settings(self) -> Settings:
        """Ask the submission for batch sizes and put the settings together."""
        options, workload = self._options, self._workload
        sizes = batch_sizes(
            self._submission, options.workload, workload, self._runtime.device_count
        )
        budget = SELF_TUNING_BUDGET if options.tuning_ruleset == "self" else 1.0
        return Settings(
            framework=options.framework,
            batch_size=sizes[0],
            eval_batch_size=sizes[1],
            max_runtime=budget * workload.max_allowed_runtime_sec,
            max_global_steps=options.max_global_steps,
            data_dir=str(Path(options.data_dir).expanduser()),
            skip_evals=options.skip_evals,
            save_checkpoints=options.save_checkpoints,
            keep_older=options.save_intermediate_checkpoints,
            compile_model=options.torch_compile,
        )

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
        hyperparameters = self._store_hyperparameters(directory, self._hyperparameters[index])
        line = ProgressLine(
            f"{self._directory.name} trial {index + 1}/{len(self._hyperparameters)}",
            self._workload,
            self._settings.max_runtime,
            stream=sys.stderr if self._runtime.is_main else None,
        )
        trial = Trial(
            self._workload,
            self._submission,
            hyperparameters,
            self._settings,
            runtime=self._runtime,
            rng_seed=self._seed,
            directory=directory,
            line=line,
        )
        self._describe(directory, trial.progress)
        stopped_by = trial.run()
        result = summarise(self._workload, index + 1, trial.progress, stopped_by, hyperparameters)
        line.close(result.global_step, result.submission_time, stopped_by)
        if self._runtime.is_main:
            write_json(directory / RESULT, asdict(result))
        return result

    def _store_hyperparameters(self, directory: Path, hyperparameters: Any) -> Any:
        """Write the hyperparameters of a new trial; an old one keeps those it began with."""
        path = directory / "hparams.json"
        if self._runtime.is_main:
            make_directory(directory)
            if hyperparameters is not None and not path.exists():
                write_json(path, hyperparameters._asdict())
        self._runtime.agree(0.0)
        if hyperparameters is None:
            return None
        return make_hyperparameters(read_json(path), self._options.tuning_search_space)

    def _describe(self, directory: Path, progress: Progress) -> None:
        """Record the flags and the circumstances of this start."""
        if self._runtime.is_main:
            count = progress.preemption_count
            about = meta_data(self._workload, progress.rng_seed)
            write_json(directory / f"meta_data_{count}.json", about)
            write_json(directory / f"flags_{count}.json", vars(self._options))


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


def _make_runtime(framework: str) -> Any:
    """Import what the framework needs, and only that."""
    if framework == "jax":
        from workloads_extra.runner.arrays_jax import JaxRuntime

        return JaxRuntime()
    from workloads_extra.runner.arrays_pytorch import PytorchRuntime

    return PytorchRuntime()


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
