"""One trial: timed steps, untimed evaluations, until target, time or steps run out.

The protocol is AlgoPerf's. Submission time covers data selection, ``update_params`` and
``prepare_for_eval``; evaluation, records and checkpoints are not counted. An evaluation is due when the
workload's period has passed since the last one ended, so the first follows the first step; with a period in
steps, which AlgoPerf does not have, steps to target repeat exactly. A run stops when validation and test
target are reached (the first alone, or neither, where targets are to be ignored), when the submission time is
used up (1.5 times as much under the self-tuning ruleset), at ``max_global_steps``, or when the submission
says so.
"""

import inspect
from pathlib import Path
from types import MappingProxyType
from typing import Any

from workloads_extra import rng as rngs
from workloads_extra.runner import checkpoints
from workloads_extra.runner.bookkeeping import (
    CLOCKS,
    CountedQueue,
    NoLogger,
    Settings,
    new_train_state,
    skip,
)
from workloads_extra.runner.checkpoints import Model, Progress
from workloads_extra.runner.console import ProgressLine
from workloads_extra.runner.storage import MetricsLogger
from workloads_extra.runner.submission import Submission
from workloads_extra.spec import TrainingCompleteError


class Trial:
    """One run of a submission on a workload with one set of hyperparameters.

    Args:
        workload: to train.
        submission: that trains it.
        hyperparameters: named tuple, or None under the self-tuning ruleset.
        settings: of the run.
        runtime: of the framework.
        rng_seed: seed of a new trial; a checkpoint brings its own.
        directory: of the trial's records.
        line: to show where the trial stands.
    """

    def __init__(
        self,
        workload: Any,
        submission: Submission,
        hyperparameters: Any,
        settings: Settings,
        *,
        runtime: Any,
        rng_seed: int,
        directory: Path,
        line: ProgressLine,
    ):
        self._workload = workload
        self._submission = submission
        self._hyperparameters = hyperparameters
        self._settings = settings
        self._clock = CLOCKS[settings.clock]
        self._runtime = runtime
        self._directory = directory
        self._line = line
        self._logger = MetricsLogger(directory) if runtime.is_main else NoLogger()
        self._needs_train_state = (
            "train_state" in inspect.signature(submission.update_params).parameters
        )
        self._resume(rng_seed)

    def _resume(self, rng_seed: int) -> None:
        """Start a new trial, or take up the latest checkpoint."""
        path = checkpoints.latest(self._directory)
        if path is None:
            self.progress = Progress(rng_seed=rng_seed, train_state=new_train_state())
        else:
            self.progress = checkpoints.load_progress(path)
            self.progress.preemption_count += 1
        # Data order and random states follow from the seed of the first start.
        self._initialise(self.progress.rng_seed)
        if path is not None:
            self._model = checkpoints.load_model(path, self._model, self._runtime)
            skip(self._queue, self.progress.batches_drawn)
        self._logger.keep_until(self.progress.global_step)
        self._workload.attach_metrics_logger(self._logger)

    def _initialise(self, rng_seed: int) -> None:
        """Make data, model and optimizer from a seed."""
        root = rngs.make_rng(self._settings.framework, rng_seed)
        data_rng, optimizer_rng, model_rng, self._rng = rngs.split(root, 4)
        self._queue = self._workload._build_input_queue(
            data_rng, "train", self._settings.data_dir, self._settings.batch_size
        )
        params, model_state = self._workload.init_model_fn(model_rng)
        params = self._runtime.prepare(params, self._settings.compile_model)
        state = self._submission.init_optimizer_state(
            self._workload, params, model_state, self._hyperparameters, optimizer_rng
        )
        self._model = Model(state, params, model_state)

    @property
    def _stopped_by(self) -> str | None:
        """Why the trial is over, None while it is not."""
        state, settings = self.progress.train_state, self._settings
        limit = settings.max_global_steps
        tested = state["test_goal_reached"] or settings.ignore_test_target
        if state["validation_goal_reached"] and tested and not settings.ignore_targets:
            return "targets"
        if not state["is_time_remaining"]:
            return "max_runtime"
        if state["training_complete"]:
            return "submission"
        return (
            "max_global_steps" if limit is not None and self.progress.global_step >= limit else None
        )

    def run(self) -> str:
        """Train until the trial is over.

        Returns:
            What ended it: ``targets``, ``max_runtime``, ``max_global_steps`` or ``submission``.
        """
        self._start = self._now()
        self.progress.train_state["last_step_end_time"] = self._start
        while self._stopped_by is None:
            step_rng = rngs.fold_in(self._rng, self.progress.global_step)
            selection_rng, update_rng, preparation_rng, eval_rng = rngs.split(step_rng, 4)
            self._step(selection_rng, update_rng)
            if self._evaluation_is_due():
                self._prepare_and_evaluate(preparation_rng, eval_rng)
            self.progress.train_state["last_step_end_time"] = self._now()
        self._record({"score": self.progress.train_state["accumulated_submission_time"]}, False)
        if self._settings.skip_evals:
            self._save()
        return self._stopped_by

    def _now(self) -> float:
        """Seconds, the same in all processes."""
        return self._runtime.agree(self._clock())

    def _arguments(self) -> dict[str, Any]:
        """What update and preparation are both called with."""
        return {
            "workload": self._workload,
            "current_param_container": self._model.params,
            "current_params_types": self._workload.model_params_types,
            "model_state": self._model.model_state,
            "hyperparameters": self._hyperparameters,
            "loss_type": self._workload.loss_type,
            "optimizer_state": self._model.optimizer_state,
            "eval_results": self.progress.eval_results,
            "global_step": self.progress.global_step,
        }

    def _step(self, selection_rng: Any, update_rng: Any) -> None:
        """Select data and update, timed."""
        progress, model = self.progress, self._model
        counted = CountedQueue(self._queue)
        batch = self._submission.data_selection(
            self._workload,
            counted,
            model.optimizer_state,
            model.params,
            model.model_state,
            self._hyperparameters,
            progress.global_step,
            selection_rng,
        )
        progress.batches_drawn += counted.drawn
        extra = (
            {"train_state": MappingProxyType(progress.train_state)}
            if self._needs_train_state
            else {}
        )
        try:
            self._model = Model(
                *self._submission.update_params(
                    **self._arguments(), batch=batch, rng=update_rng, **extra
                )
            )
        except TrainingCompleteError:
            progress.train_state["training_complete"] = True
        progress.global_step += 1
        if self._is_last_step():
            self._runtime.wait(self._model)
        self._step_end = self._now()
        elapsed = self._step_end - progress.train_state["last_step_end_time"]
        progress.train_state["accumulated_submission_time"] += elapsed
        self._line.step(progress.global_step, progress.train_state["accumulated_submission_time"])

    def _is_last_step(self) -> bool:
        """Whether no step follows, unless time runs out first."""
        return self._stopped_by in ("submission", "max_global_steps")

    def _evaluation_is_due(self) -> bool:
        """Whether the period has passed, or the last step was done."""
        if self._settings.skip_evals:
            return False
        if self._settings.eval_period_steps is not None:
            step = self.progress.global_step
            due = step == 1 or step % self._settings.eval_period_steps == 0
            return due or self._is_last_step() or self._is_out_of_time()
        since = self._step_end - self.progress.train_state["last_eval_time"]
        return since >= self._workload.eval_period_time_sec or self._is_last_step()

    def _is_out_of_time(self) -> bool:
        """Whether the submission time is used up, which between evaluations only the clock tells."""
        used = self.progress.train_state["accumulated_submission_time"]
        return used >= self._settings.max_runtime

    def _prepare_and_evaluate(self, preparation_rng: Any, eval_rng: Any) -> None:
        """Prepare, timed; evaluate, untimed, if there is time left; then save."""
        state = self.progress.train_state
        start = self._now()
        if self._submission.prepare_for_eval is not None:
            prepared = self._submission.prepare_for_eval(**self._arguments(), rng=preparation_rng)
            self._model = Model(*prepared)
        # Without waiting, work still in flight would be booked on the untimed evaluation.
        self._runtime.wait(self._model)
        state["accumulated_submission_time"] += self._now() - start
        remaining = state["accumulated_submission_time"] < self._settings.max_runtime
        state["is_time_remaining"] = remaining
        if remaining:
            self._evaluate(eval_rng)
        start = self._now()
        self._save()
        state["accumulated_logging_time"] += self._now() - start

    def _evaluate(self, eval_rng: Any) -> None:
        """Evaluate, compare with the targets and record."""
        progress, state = self.progress, self.progress.train_state
        start = self._now()
        metrics = self._workload.eval_model(
            self._settings.eval_batch_size,
            self._model.params,
            self._model.model_state,
            eval_rng,
            self._settings.data_dir,
            None,
            progress.global_step,
        )
        state["last_eval_time"] = self._now()
        state["accumulated_eval_time"] += state["last_eval_time"] - start
        for split in ("validation", "test"):
            reached = getattr(self._workload, f"has_reached_{split}_target")(metrics)
            state[f"{split}_goal_reached"] = bool(reached or state[f"{split}_goal_reached"])
        times = {name: state[name] for name in state if name.startswith("accumulated_")}
        metrics = {
            **metrics,
            "score": state["accumulated_submission_time"],
            "total_duration": state["last_eval_time"] - self._start,
            **times,
        }
        progress.eval_results.append((progress.global_step, metrics))
        self._record(metrics, True)
        self._line.evaluation(progress.global_step, metrics)

    def _record(self, metrics: dict[str, float], is_eval: bool) -> None:
        """Write a row of measurements."""
        count = self.progress.preemption_count
        self._logger.append_scalar_metrics(metrics, self.progress.global_step, count, is_eval)

    def _save(self) -> None:
        """Write a checkpoint, in one process."""
        if self._settings.save_checkpoints and self._runtime.is_main:
            checkpoints.save(
                self._directory,
                self.progress,
                self._model,
                self._runtime,
                keep_older=self._settings.keep_older,
            )
