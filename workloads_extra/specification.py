"""The part of AlgoPerf's interface that workloads and submissions meet, for machines without AlgoPerf.

Names, values and signatures are AlgoPerf's, so that a workload or submission written against one runs
against the other. No framework is imported here.
"""

import abc
import enum
import logging
from collections.abc import Callable, Iterator
from typing import Any

_logger = logging.getLogger(__name__)


class LossType(enum.Enum):
    """Loss of a workload, and with it the distribution its outputs parametrise."""

    SOFTMAX_CROSS_ENTROPY = 0
    SIGMOID_CROSS_ENTROPY = 1
    MEAN_SQUARED_ERROR = 2
    CTC_LOSS = 3
    MEAN_ABSOLUTE_ERROR = 4


class ForwardPassMode(enum.Enum):
    """Whether a forward pass trains or evaluates."""

    TRAIN = 0
    EVAL = 1


class ParameterType(enum.Enum):
    """Role of a parameter in its model."""

    WEIGHT = 0
    BIAS = 1
    CONV_WEIGHT = 2
    BATCH_NORM_SCALE = 3
    BATCH_NORM_BIAS = 4
    LAYER_NORM_SCALE = 5
    LAYER_NORM_BIAS = 6
    EMBEDDING = 7
    ATTENTION_Q = 8
    ATTENTION_K = 9
    ATTENTION_V = 10
    ATTENTION_OUT = 11
    ATTENTION_QKV = 12
    ATTENTION_KV = 13
    ATTENTION_BIAS = 14


class ShapeTuple:
    """A shape that pytree functions treat as one leaf.

    Args:
        shape_tuple: lengths of the axes.
    """

    def __init__(self, shape_tuple: tuple[int, ...]):
        self.shape_tuple = shape_tuple

    def __repr__(self) -> str:
        return f"ShapeTuple({self.shape_tuple})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ShapeTuple) and self.shape_tuple == other.shape_tuple

    def __hash__(self) -> int:
        return hash(self.shape_tuple)


class TrainingCompleteError(Exception):
    """Raised by a submission in ``update_params`` to end its run."""


class Workload(abc.ABC):
    """A model, its data, its loss and the targets a submission has to reach."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._param_shapes: Any = None
        self._param_types: Any = None
        self._eval_iters: dict[str, Iterator] = {}
        self.metrics_logger: Any = None

    def attach_metrics_logger(self, metrics_logger: Any) -> None:
        """Let submissions log through ``metrics_logger.append_scalar_metrics``."""
        self.metrics_logger = metrics_logger

    @property
    def param_shapes(self) -> Any:
        """Tree of `ShapeTuple`, one per parameter.

        Raises:
            ValueError: before ``init_model_fn`` was called.
        """
        return _initialised(self._param_shapes, "param_shapes")

    @property
    def model_params_types(self) -> Any:
        """Tree of `ParameterType`, one per parameter.

        Raises:
            ValueError: before ``init_model_fn`` was called.
        """
        return _initialised(self._param_types, "model_params_types")

    @property
    @abc.abstractmethod
    def target_metric_name(self) -> str:
        """Metric that the targets are set on, without the split's prefix."""

    @property
    @abc.abstractmethod
    def loss_type(self) -> LossType:
        """Loss of the workload."""

    @abc.abstractmethod
    def init_model_fn(self, rng: Any) -> tuple[Any, Any]:
        """Return (parameters, model state)."""

    @abc.abstractmethod
    def model_fn(
        self,
        params: Any,
        augmented_and_preprocessed_input_batch: dict[str, Any],
        model_state: Any,
        mode: ForwardPassMode,
        rng: Any,
        update_batch_norm: bool,
        dropout_rate: float = 0.0,
    ) -> tuple[Any, Any]:
        """Return (outputs, model state)."""

    @abc.abstractmethod
    def loss_fn(
        self,
        label_batch: Any,
        logits_batch: Any,
        mask_batch: Any = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, Any]:
        """Return ``summed``, ``n_valid_examples`` and ``per_example`` of the masked loss."""

    def output_activation_fn(self, logits_batch: Any, framework: str) -> Any:
        """Turn outputs into means of the distribution that `loss_type` stands for.

        Args:
            logits_batch: outputs, classes on the last axis.
            framework: ``jax`` or ``pytorch``.

        Returns:
            Probabilities, or the outputs themselves for regression.
        """
        if self.loss_type in (LossType.MEAN_SQUARED_ERROR, LossType.MEAN_ABSOLUTE_ERROR):
            return logits_batch
        softmax, sigmoid = _activations(framework)
        if self.loss_type is LossType.SIGMOID_CROSS_ENTROPY:
            return sigmoid(logits_batch)
        return softmax(logits_batch)

    def eval_model(
        self,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: Any,
        data_dir: str,
        imagenet_v2_data_dir: str | None,
        global_step: int,
    ) -> dict[str, float]:
        """Evaluate on the training, validation and test splits.

        Returns:
            Metrics named ``<split>/<metric>``, and the size of the held-out splits.
        """
        sizes = {
            "train": self.num_eval_train_examples,
            "validation": self.num_validation_examples,
            "test": self.num_test_examples,
        }
        results: dict[str, float] = {}
        for name, num_examples in sizes.items():
            split = "eval_train" if name == "train" else name
            _logger.info("Evaluating on the %s split.", name)
            metrics = self._eval_model_on_split(
                split,
                num_examples,
                global_batch_size,
                params,
                model_state,
                rng,
                data_dir,
                global_step,
            )
            results.update({f"{name}/{metric}": value for metric, value in metrics.items()})
            if name != "train":
                results[f"{name}/num_examples"] = num_examples
        return results


def _initialised(tree: Any, name: str) -> Any:
    """Return the tree, or explain that the model does not exist yet."""
    if tree is None:
        raise ValueError(
            f"{name} is known after init_model_fn; call workload.init_model_fn(rng) first"
        )
    return tree


def _activations(framework: str) -> tuple[Callable, Callable]:
    """Softmax over the last axis and sigmoid in one framework."""
    if framework == "jax":
        import jax

        return jax.nn.softmax, jax.nn.sigmoid
    if framework == "pytorch":
        import torch

        return lambda logits: torch.softmax(logits, dim=-1), torch.sigmoid
    raise ValueError(f"framework must be 'jax' or 'pytorch', got {framework!r}")
