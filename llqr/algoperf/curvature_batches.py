"""The curvature batch of one training step: what is cut into examples and chunks, and what is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from llqr.algoperf.batches import Batch, arrays, example_count, is_sliceable, take_evenly
from llqr.algoperf.likelihoods import Likelihood, likelihood_of
from llqr.algoperf.planning import Plan, make_plan
from llqr.backend import Array

BATCH, PADDINGS, WEIGHTS = "batch", "paddings", "weights"
"""Keys of the part that is cut."""


@dataclass(frozen=True)
class CurvatureBatch:
    """A curvature batch and how it is processed.

    Attributes:
        cut: what has the example as leading axis, under the keys :data:`BATCH`, :data:`PADDINGS` (of the
            outputs, where the model returns some) and :data:`WEIGHTS` (of the loss's events).
        whole: entries of the training batch that cannot be cut, such as graphs.
        likelihood: output distribution.
        plan: chunks and cost.
    """

    cut: dict[str, Any]
    whole: dict[str, Any]
    likelihood: Likelihood
    plan: Plan


def curvature_batch(
    batch: Batch,
    outputs: Any,
    *,
    loss_type: Any,
    products: int,
    probe: Callable[[Likelihood], Array],
    shards: int = 1,
    processes: int = 1,
) -> CurvatureBatch:
    """Choose the curvature batch of a training step.

    Args:
        batch: this process's training batch; ``"targets"`` and, where there is a mask, ``"weights"``.
        outputs: what the model returned for it, detached: logits, or (logits, paddings).
        loss_type: the workload's.
        products: curvature products of a refresh.
        probe: likelihood ↦ weights of the output's numbers in the loss, by
            :func:`llqr.algoperf.likelihoods.weights_from_slopes`.
        shards: devices the leading axis is split over.
        processes: processes that each have such a batch.

    Returns:
        The chosen examples with everything a refresh needs beside the model.
    """
    logits, paddings = outputs if isinstance(outputs, tuple) else (outputs, None)
    shape = tuple(logits.shape)
    mask = batch.get("weights")
    likelihood = likelihood_of(loss_type, shape, mask)
    examples = example_count(batch)
    whole = {key: value for key, value in batch.items() if not is_sliceable(value, examples)}
    cut: dict[str, Any] = {
        BATCH: {
            key: value for key, value in batch.items() if key not in whole and value is not None
        }
    }
    if paddings is not None:
        cut[PADDINGS] = paddings
    weights = _weights(likelihood, mask, paddings, probe)
    if weights is not None:
        cut[WEIGHTS] = weights
    sliceable = not whole and is_sliceable(cut, examples)
    if examples % shards:
        shards = 1
    plan = make_plan(
        examples=examples * processes,
        output_shape=(shape[0] * processes, *shape[1:]) if shape else shape,
        event_axes=likelihood.metric.event_axes,
        example_bytes=sum(4 * prod(array.shape[1:]) for array in arrays(cut[BATCH])),
        products=products,
        sliceable=sliceable,
        shards=shards * processes,
    ).for_one_of(processes)
    if sliceable:
        cut = take_evenly(cut, examples, plan.examples, shards)
    return CurvatureBatch(cut, whole, likelihood, plan)


def _weights(
    likelihood: Likelihood, mask: Any, paddings: Any, probe: Callable[[Likelihood], Array]
) -> Any:
    if likelihood.probe == "mask":
        return mask
    if likelihood.probe != "frames":
        return probe(likelihood)
    if paddings is None:
        return mask
    frames = 1 - paddings
    return frames if mask is None else frames * mask.reshape((-1, 1))
