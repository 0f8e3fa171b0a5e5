"""What the extra workloads need in JAX: losses, placement of batches, evaluation.

Parameters are nested dictionaries, the model a plain function of them.
"""

import abc
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from workloads_extra import parameters
from workloads_extra.spec import ForwardPassMode, LossType


def _softmax_cross_entropy(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy with integer classes, [batch, classes] and [batch] to [batch]."""
    classes = outputs.shape[-1]
    probabilities = (1.0 - smoothing) * jax.nn.one_hot(targets, classes) + smoothing / classes
    return -jnp.sum(probabilities * jax.nn.log_softmax(outputs), axis=-1)


def _sigmoid_cross_entropy(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Cross-entropy with probabilities, summed over the outputs of an example."""
    probabilities = (1.0 - smoothing) * targets + 0.5 * smoothing
    losses = jax.nn.softplus(outputs) - probabilities * outputs
    return jnp.sum(losses, axis=-1)


def _squared_error(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Squared error, summed over the outputs of an example."""
    del smoothing
    return jnp.sum((outputs - targets) ** 2, axis=-1)


def _absolute_error(outputs: jax.Array, targets: jax.Array, smoothing: float) -> jax.Array:
    """Absolute error, summed over the outputs of an example."""
    del smoothing
    return jnp.sum(jnp.abs(outputs - targets), axis=-1)


_LOSSES: dict[LossType, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
    LossType.SOFTMAX_CROSS_ENTROPY: _softmax_cross_entropy,
    LossType.SIGMOID_CROSS_ENTROPY: _sigmoid_cross_entropy,
    LossType.MEAN_SQUARED_ERROR: _squared_error,
    LossType.MEAN_ABSOLUTE_ERROR: _absolute_error,
}


class JaxWorkload:
    """Mixin that comes before the framework-independent base of a workload."""

    @abc.abstractmethod
    def _apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """Return the outputs of the model, [batch, outputs]."""

    def init_model_fn(self, rng: Any) -> tuple[Any, None]:
        """Return new parameters, and None for the model state."""
        specs = self._parameter_specs()
        arrays = parameters.initial_arrays(specs, rng)
        self._param_shapes = parameters.nest(parameters.shape_tuples(arrays))
        self._param_types = parameters.nest({path: spec.type for path, spec in specs.items()})
        return parameters.nest({path: jnp.asarray(array) for path, array in arrays.items()}), None

    def model_fn(
        self,
        params: Any,
        augmented_and_preprocessed_input_batch: dict[str, jax.Array],
        model_state: None,
        mode: ForwardPassMode,
        rng: Any,
        update_batch_norm: bool,
        dropout_rate: float = 0.0,
    ) -> tuple[jax.Array, None]:
        """Return the outputs; the models have neither dropout nor batch statistics."""
        del model_state, mode, rng, update_batch_norm, dropout_rate
        return self._apply(params, augmented_and_preprocessed_input_batch["inputs"]), None

    def loss_fn(
        self,
        label_batch: jax.Array,
        logits_batch: jax.Array,
        mask_batch: jax.Array | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, jax.Array]:
        """Return the loss of a batch.

        Args:
            label_batch: classes [batch], or targets [batch, outputs].
            logits_batch: [batch, outputs].
            mask_batch: weight of each example [batch], or None for ones.
            label_smoothing: share of the uniform distribution in the targets of a cross-entropy.

        Returns:
            ``summed`` loss, ``n_valid_examples`` and loss ``per_example`` [batch].
        """
        per_example = _LOSSES[self.loss_type](logits_batch, label_batch, label_smoothing)
        mask = jnp.ones_like(per_example) if mask_batch is None else mask_batch
        per_example = per_example * mask
        return {
            "summed": per_example.sum(),
            "n_valid_examples": mask.sum(),
            "per_example": per_example,
        }

    def _build_input_queue(
        self,
        data_rng: Any,
        split: str,
        data_dir: str,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> Iterator[dict[str, jax.Array]]:
        """Return the queue of a split, each batch sharded over all devices along its first axis."""
        del data_dir, cache, num_batches
        queue = self._numpy_queue(data_rng, split, global_batch_size, repeat_final_dataset)
        mesh = Mesh(np.asarray(jax.devices()), ("batch",))
        return _PlacedQueue(queue, NamedSharding(mesh, PartitionSpec("batch")))

    def _metric_sums(self, params: Any, batch: Any, model_state: Any, rng: Any) -> dict[str, Any]:
        """Return the summed metrics of one batch."""
        del rng
        return self._evaluate(params, batch, model_state)

    @functools.cached_property
    def _evaluate(self) -> Callable[..., dict[str, jax.Array]]:
        """Metrics of a batch, compiled."""

        def evaluate(params: Any, batch: Any, model_state: Any) -> dict[str, jax.Array]:
            outputs, _ = self.model_fn(
                params, batch, model_state, ForwardPassMode.EVAL, None, update_batch_norm=False
            )
            targets, weights = batch["targets"], batch["weights"]
            sums = {"loss": self.loss_fn(targets, outputs, weights)["summed"]}
            if self.loss_type is LossType.SOFTMAX_CROSS_ENTROPY:
                sums["accuracy"] = jnp.sum((jnp.argmax(outputs, axis=-1) == targets) * weights)
            return sums

        return jax.jit(evaluate)


class _PlacedQueue:
    """Puts each batch of a queue on the devices.

    Args:
        queue: batches in NumPy.
        sharding: of every array in a batch.
    """

    def __init__(self, queue: Iterator[dict[str, np.ndarray]], sharding: NamedSharding):
        self._queue = queue
        self._sharding = sharding

    def __iter__(self) -> "_PlacedQueue":
        return self

    def __next__(self) -> dict[str, jax.Array]:
        return jax.device_put(next(self._queue), self._sharding)

    def skip(self, batches: int) -> None:
        """Advance the queue underneath."""
        self._queue.skip(batches)
