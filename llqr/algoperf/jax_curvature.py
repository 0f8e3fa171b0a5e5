"""A JAX workload as LLQR's outputs, loss and weights functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from llqr.algoperf.curvature_batches import BATCH, PADDINGS, WEIGHTS
from llqr.algoperf.likelihoods import Likelihood, specification, weights_from_slopes


@dataclass(frozen=True, kw_only=True)
class JaxObjective:
    """The network without dropout and its training loss, on pieces of a curvature batch.

    Attributes:
        workload: model and loss.
        model_state: running statistics; where there are some, the network normalises by the piece.
        whole: entries of the batch that are not cut.
        label_smoothing: as in training.
    """

    workload: Any
    model_state: Any = None
    whole: Mapping[str, Any] = field(default_factory=dict)
    label_smoothing: float = 0.0

    def outputs(self, params: Any, piece: Mapping[str, Any]) -> Array:
        """Return the logits: no dropout, and normalised as in training."""
        modes = specification(self.workload).ForwardPassMode
        normalises = bool(jax.tree.leaves(self.model_state))
        # The new statistics are dropped.
        outputs, _ = self.workload.model_fn(
            params,
            {**piece[BATCH], **self.whole},
            self.model_state,
            modes.TRAIN if normalises else modes.EVAL,
            # Some modules want a key to be there also where nothing is drawn.
            jax.random.PRNGKey(0),
            update_batch_norm=normalises,
            dropout_rate=0.0,
        )
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def loss(self, outputs: Array, piece: Mapping[str, Any]) -> tuple[Array, Array]:
        """Return the summed loss and the number it is divided by."""
        loss = self.workload.loss_fn(
            label_batch=piece[BATCH]["targets"],
            logits_batch=(outputs, piece[PADDINGS]) if PADDINGS in piece else outputs,
            mask_batch=piece[BATCH].get("weights"),
            label_smoothing=self.label_smoothing,
        )
        return loss["summed"], jnp.asarray(loss["n_valid_examples"], outputs.dtype)

    def weights(self, piece: Mapping[str, Any]) -> Array | None:
        """Return the weights of the loss's events."""
        return piece.get(WEIGHTS)

    def probe(self, likelihood: Likelihood, outputs: Array, batch: Mapping[str, Any]) -> Array:
        """Return the weight of every output number in the summed loss, of the shape of ``outputs``."""

        def slope(value: float) -> Array:
            point = jnp.full_like(outputs, value)
            return jax.grad(lambda logits: self.loss(logits, {BATCH: batch})[0])(point)

        return weights_from_slopes(likelihood.probe, slope, lambda x: 1.0 / (1.0 + math.exp(-x)))
