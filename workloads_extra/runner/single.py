"""One trial with its files: hyperparameters, circumstances, measurements and result in its own folder."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from workloads_extra.runner.bookkeeping import SELF_TUNING_BUDGET, Settings
from workloads_extra.runner.checkpoints import Progress
from workloads_extra.runner.console import ProgressLine
from workloads_extra.runner.metadata import meta_data
from workloads_extra.runner.results import RESULT, TrialResult, summarise
from workloads_extra.runner.search_space import make_hyperparameters
from workloads_extra.runner.storage import make_directory, read_json, write_json
from workloads_extra.runner.submission import Submission, batch_sizes
from workloads_extra.runner.training import Trial


class Outcome(NamedTuple):
    """What a trial left behind.

    Attributes:
        result: its summary.
        progress: times and evaluations at its end.
    """

    result: TrialResult
    progress: Progress


class TrialRunner:
    """Runs trials of a submission on a workload, one at a time.

    Args:
        workload: to train.
        submission: that trains it.
        runtime: of the framework.
        options: namespace of the flags.
        stream: where progress is shown; None for nowhere.
    """

    def __init__(
        self,
        workload: Any,
        submission: Submission,
        runtime: Any,
        options: Any,
        stream: TextIO | None = sys.stderr,
    ):
        self._workload = workload
        self._submission = submission
        self._runtime = runtime
        self._options = options
        self._stream = stream if runtime.is_main else None
        self.settings = self._make_settings()

    def _make_settings(self) -> Settings:
        """Ask the submission for batch sizes and put the settings together."""
        options, workload = self._options, self._workload
        sizes = batch_sizes(
            self._submission, options.workload, workload, self._runtime.device_count
        )
        budget = options.runtime_factor
        if options.tuning_ruleset == "self":
            budget *= SELF_TUNING_BUDGET
        return Settings(
            framework=options.framework,
            batch_size=sizes[0],
            eval_batch_size=sizes[1],
            max_runtime=budget * workload.max_allowed_runtime_sec,
            max_global_steps=options.max_global_steps,
            eval_period_steps=options.eval_period_steps,
            ignore_test_target=options.ignore_test_target,
            ignore_targets=options.ignore_targets,
            data_dir=str(Path(options.data_dir).expanduser()),
            skip_evals=options.skip_evals,
            save_checkpoints=options.save_checkpoints,
            keep_older=options.save_intermediate_checkpoints,
            compile_model=options.torch_compile,
            clock=options.clock,
        )

    def run(
        self,
        directory: Path,
        hyperparameters: dict[str, Any] | None,
        source: str,
        rng_seed: int,
        number: int = 1,
        label: str = "trial",
    ) -> Outcome:
        """Run a trial, or continue the one that the folder holds a checkpoint of.

        Args:
            directory: of the trial.
            hyperparameters: by field; None under the self-tuning ruleset.
            source: where they come from, for messages.
            rng_seed: of data and model.
            number: of the trial, from 1.
            label: name shown in progress lines.

        Returns:
            Result and progress; the files are written.
        """
        point = self._store_hyperparameters(directory, hyperparameters, source)
        workload, settings = self._workload, self.settings
        line = ProgressLine(label, workload, settings.max_runtime, stream=self._stream)
        trial = Trial(
            workload,
            self._submission,
            point,
            settings,
            runtime=self._runtime,
            rng_seed=rng_seed,
            directory=directory,
            line=line,
        )
        self._describe(directory, trial.progress)
        stopped_by = trial.run()
        result = summarise(workload, number, trial.progress, stopped_by, point)
        line.close(result.global_step, result.submission_time, stopped_by)
        if self._runtime.is_main:
            write_json(directory / RESULT, asdict(result))
        return Outcome(result, trial.progress)

    def _store_hyperparameters(
        self, directory: Path, hyperparameters: dict[str, Any] | None, source: str
    ) -> Any:
        """Write the hyperparameters of a new trial; an old one keeps those it began with."""
        path = directory / "hparams.json"
        if self._runtime.is_main:
            make_directory(directory)
            if hyperparameters is not None and not path.exists():
                write_json(path, hyperparameters)
        self._runtime.agree(0.0)
        if hyperparameters is None:
            return None
        return make_hyperparameters(read_json(path), source)

    def _describe(self, directory: Path, progress: Progress) -> None:
        """Record the flags and the circumstances of this start."""
        if self._runtime.is_main:
            count = progress.preemption_count
            about = meta_data(self._workload, progress.rng_seed)
            write_json(directory / f"meta_data_{count}.json", about)
            write_json(directory / f"flags_{count}.json", vars(self._options))


def make_runtime(framework: str) -> Any:
    """Import what the framework needs, and only that.

    Args:
        framework: ``jax`` or ``pytorch``.

    Returns:
        Its runtime.
    """
    if framework == "jax":
        from workloads_extra.runner.arrays_jax import JaxRuntime

        return JaxRuntime()
    from workloads_extra.runner.arrays_pytorch import PytorchRuntime

    return PytorchRuntime()
