"""What all extra workloads share, whatever the framework: data queues, evaluation and targets."""

import abc
import functools
from collections.abc import Iterator
from typing import Any

from workloads_extra import data, targets
from workloads_extra.parameters import Specs
from workloads_extra.spec import Workload


class ExtraWorkload(Workload):
    """Base of the extra workloads; one abstract subclass per data set, one final class per framework.

    A subclass states `name`, `target_metric_name`, `loss_type`, `output_layer`, its splits and parameters;
    `workloads_extra.jax_workload` and `workloads_extra.pytorch_workload` add what a framework needs.
    """

    name: str
    """Key in the registry and in the file of targets."""

    output_layer: str
    """First component of the paths of the last layer's parameters; empty for none."""

    target_floor = 0.0
    """Smallest target on a loss that float32 resolves."""

    @abc.abstractmethod
    def _make_splits(self) -> dict[str, data.Split]:
        """Return the splits ``train``, ``validation`` and ``test``."""

    @abc.abstractmethod
    def _parameter_specs(self) -> Specs:
        """Return the parameters of the model."""

    @abc.abstractmethod
    def _metric_sums(self, params: Any, batch: Any, model_state: Any, rng: Any) -> dict[str, float]:
        """Return the metrics of one batch and its ``weights``, summed over all devices."""

    @functools.cached_property
    def _splits(self) -> dict[str, data.Split]:
        """All splits, and the part of the training split that is evaluated."""
        splits = self._make_splits()
        return {**splits, "eval_train": splits["train"].take(slice(self.num_eval_train_examples))}

    @property
    def _targets(self) -> targets.Targets:
        """Targets and budget of this workload."""
        return targets.of(self.name)

    def _better_or_equal(self, value: float, target: float) -> bool:
        """Compare as the scoring code does: losses are minimised, accuracies maximised."""
        return value <= target if self.target_metric_name == "loss" else value >= target

    def has_reached_validation_target(self, eval_result: dict[str, float]) -> bool:
        """Return whether the validation metric is at least as good as its target."""
        value = eval_result[f"validation/{self.target_metric_name}"]
        return self._better_or_equal(value, self.validation_target_value)

    def has_reached_test_target(self, eval_result: dict[str, float]) -> bool:
        """Return whether the test metric is at least as good as its target."""
        value = eval_result[f"test/{self.target_metric_name}"]
        return self._better_or_equal(value, self.test_target_value)

    @property
    def validation_target_value(self) -> float:
        """Validation metric to reach."""
        return self._targets.validation_target

    @property
    def test_target_value(self) -> float:
        """Test metric to reach."""
        return self._targets.test_target

    @property
    def max_allowed_runtime_sec(self) -> float:
        """Seconds of submission time before a run is stopped."""
        return self._targets.max_runtime_sec

    @property
    def eval_period_time_sec(self) -> float:
        """Seconds between two evaluations."""
        return self._targets.eval_period_sec

    @property
    def step_hint(self) -> int:
        """Steps that the baseline's schedule was tuned for."""
        return self._targets.step_hint

    @property
    def num_train_examples(self) -> int:
        """Size of the training split."""
        return len(self._splits["train"])

    @property
    def num_eval_train_examples(self) -> int:
        """Training examples that are evaluated: as many as there are for validation."""
        return self.num_validation_examples

    @property
    def num_validation_examples(self) -> int:
        """Size of the validation split."""
        return self._split_sizes["validation"]

    @property
    def num_test_examples(self) -> int:
        """Size of the test split."""
        return self._split_sizes["test"]

    @property
    @abc.abstractmethod
    def _split_sizes(self) -> dict[str, int]:
        """Number of examples per split."""

    @property
    def eval_batch_size(self) -> int:
        """Examples per evaluation batch."""
        return 512

    @property
    def train_mean(self) -> float:
        """Mean that is left to subtract: none, the splits are normalised already."""
        return 0.0

    @property
    def train_stddev(self) -> float:
        """Scale that is left to divide by: none, the splits are normalised already."""
        return 1.0

    def is_output_params(self, param_key: str) -> bool:
        """Return whether a key belongs to the last layer, in either framework's names."""
        return (
            bool(self.output_layer)
            and param_key.replace(".", "/").split("/")[0] == self.output_layer
        )

    def _numpy_queue(
        self, data_rng: Any, split: str, global_batch_size: int, repeat: bool | None
    ) -> Iterator[data.Batch]:
        """Return the training queue, or the batches of an evaluation split.

        Raises:
            ValueError: for an unknown split.
        """
        if split not in self._splits:
            raise ValueError(f"split must be one of {sorted(self._splits)}, got {split!r}")
        if split == "train":
            return data.TrainingQueue(self._splits[split], global_batch_size, data_rng)
        batches = data.evaluation_batches(self._splits[split], global_batch_size)
        return iter(batches) if repeat is False else _endless(batches)

    def _eval_model_on_split(
        self,
        split: str,
        num_examples: int,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: Any,
        data_dir: str,
        global_step: int = 0,
    ) -> dict[str, float]:
        """Return the metrics of a split, averaged over its examples, or over what carries their weights."""
        del num_examples, global_step
        key = f"{split} in batches of {global_batch_size}"
        if key not in self._eval_iters:
            # Held as placed batches: the splits are small and every evaluation goes through them again.
            self._eval_iters[key] = list(
                self._build_input_queue(
                    rng, split, data_dir, global_batch_size, repeat_final_dataset=False
                )
            )
        totals: dict[str, float] = {}
        for batch in self._eval_iters[key]:
            for metric, value in self._metric_sums(params, batch, model_state, rng).items():
                totals[metric] = totals.get(metric, 0.0) + float(value)
        count = totals.pop("weights")
        return {metric: total / count for metric, total in totals.items()}


def _endless(batches: list[data.Batch]) -> Iterator[data.Batch]:
    """Go through the batches again and again."""
    while True:
        yield from batches
