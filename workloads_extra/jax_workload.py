"""What the extra workloads need in JAX: placement of batches, evaluation.

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
from workloads_extra.losses_jax import LOSSES
from workloads_extra.spec import ForwardPassMode, LossType


class StatefulJaxWorkload:
    """Mixin that comes before the framework-independent base of a workload with a model state."""

    @abc.abstractmethod
    def _initial_state(self) -> Any:
        """Return the model state before the first step."""

    @abc.abstractmethod
    def _forward(
        self, params: Any, model_state: Any, inputs: jax.Array, training: bool
    ) -> tuple[jax.Array, Any]:
        """Return the outputs of the model, [batch, ..., outputs], and its new state."""

    def init_model_fn(self, rng: Any) -> tuple[Any, Any]:
        """Return new parameters and the model state, on all devices as every step returns them."""
        specs = self._parameter_specs()
        arrays = parameters.initial_arrays(specs, rng)
        self._param_shapes = parameters.nest(parameters.shape_tuples(arrays))
        self._param_types = parameters.nest({path: spec.type for path, spec in specs.items()})
        params = parameters.nest({path: jnp.asarray(array) for path, array in arrays.items()})
        return jax.device_put(
            (params, self._initial_state()), NamedSharding(_mesh(), PartitionSpec())
        )

    def model_fn(
        self,
        params: Any,
        augmented_and_preprocessed_input_batch: dict[str, jax.Array],
        model_state: Any,
        mode: ForwardPassMode,
        rng: Any,
        update_batch_norm: bool,
        dropout_rate: float = 0.0,
    ) -> tuple[jax.Array, Any]:
        """Return the outputs and the model state, which changes in training with ``update_batch_norm``.

        No model has dropout.
        """
        del rng, dropout_rate
        inputs = augmented_and_preprocessed_input_batch["inputs"]
        training = mode is ForwardPassMode.TRAIN
        outputs, new_state = self._forward(params, model_state, inputs, training)
        return outputs, new_state if update_batch_norm else model_state

    def loss_fn(
        self,
        label_batch: jax.Array,
        logits_batch: jax.Array,
        mask_batch: jax.Array | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, jax.Array]:
        """Return the loss of a batch.

        Args:
            label_batch: classes [batch] or, one per token, [batch, length]; or targets [batch, outputs].
            logits_batch: [batch, outputs] or [batch, length, outputs].
            mask_batch: weight of each example or token, in the shape of ``per_example``; None for ones.
            label_smoothing: share of the uniform distribution in the targets of a cross-entropy.

        Returns:
            ``summed`` loss, ``n_valid_examples`` (of tokens where there are some) and loss ``per_example``,
            [batch] or [batch, length].
        """
        per_example = LOSSES[self.loss_type](logits_batch, label_batch, label_smoothing)
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
        return _PlacedQueue(queue, NamedSharding(_mesh(), PartitionSpec("batch")))

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
            loss = self.loss_fn(targets, outputs, weights)
            sums = {"loss": loss["summed"], "weights": loss["n_valid_examples"]}
            if self.loss_type is LossType.SOFTMAX_CROSS_ENTROPY:
                sums["accuracy"] = jnp.sum((jnp.argmax(outputs, axis=-1) == targets) * weights)
            return sums

        return jax.jit(evaluate)


class JaxWorkload(StatefulJaxWorkload):
    """Mixin for a workload whose model is a function of parameters and inputs alone."""

    @abc.abstractmethod
    def _apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """Return the outputs of the model, [batch, ..., outputs]."""

    def _initial_state(self) -> None:
        """Nothing."""

    def _forward(
        self, params: Any, model_state: None, inputs: jax.Array, training: bool
    ) -> tuple[jax.Array, None]:
        """Return the outputs, the same in training and evaluation."""
        return self._apply(params, inputs), None


def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()), ("batch",))


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
