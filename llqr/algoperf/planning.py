"""Curvature batch, chunks, kind of Gram matrix and refresh interval, from shapes alone.

A plan keeps a refresh beside a training step inside a 16 GB accelerator and its cost below a share of the
training steps between two refreshes, whatever the workload:

* a refresh linearises at most a quarter of a device's examples at a time (a small batch: all of them), so its
  activations with a few tangents stay below those of the training step;
* a Gram matrix from forward products stores every direction's tangent of the outputs; where that is
  too much, each direction takes a backward product as well and stores none;
* the interval follows from the operation count: a forward product is at most 2/3 of a gradient (less in
  torch, where layers before the direction's own cost nothing: :mod:`llqr.directions`), forward and
  backward 4/3. So does the patience with a solution that moves at every step: refreshes of c gradients whose
  interval grows by one every K/c steps cost about K ln(1 + t c/K) gradients in the first t steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, prod

GRAM_BYTES = 2**30
"""Limit on the stored tangents of a Gram matrix, per device."""
SMALL_BATCH_BYTES = 2**24
"""Inputs and outputs of a device below this need no chunks."""
SHARE = 16
"""One in so many examples is a curvature example."""
SMALL_SHARE, MANY_EVENTS = 4, 256
"""One in so many, while they are at most so many events."""
MIN_EVENTS = 64
"""The curvature batch holds at least so many events where the batch does."""
FORWARD, FORWARD_BACKWARD = 2 / 3, 4 / 3
JUDGEMENT = 19 / 6
"""Gradients of the curvature batch beside the products: its own, of half of it, two losses, and one more for
what is not counted, copies and small operations."""

EARLY_GRADIENTS = 80.0
"""K: gradients that refreshes may cost while steps are few, up to the logarithm above."""
LONGEST_PATIENCE = 50
"""Bound on the patience with a solution that moves at every step, and that of exact gradients; in steps."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a refresh is computed.

    Attributes:
        examples: examples of the curvature batch, over all shards.
        chunk_size: examples linearised at a time over all shards, None for all.
        store_tangents: build Gram matrices from stored forward products.
        cost: gradients of the whole batch that a refresh costs.
        held_out: share of the batch's examples in the curvature batch, None where examples cannot be taken
            from it, so that none can be held out of a gradient (:mod:`llqr.holdout`).
    """

    examples: int
    chunk_size: int | None
    store_tangents: bool
    cost: float
    held_out: float | None = None

    def for_one_of(self, processes: int) -> Plan:
        """Return the part of one of several processes."""
        chunk = None if self.chunk_size is None else self.chunk_size // processes
        return replace(self, examples=self.examples // processes, chunk_size=chunk)

    def interval(self, share: float, shortest: int, longest: int) -> int:
        """Return steps between refreshes such that they take ``share`` of the gradients."""
        return min(max(ceil(self.cost / share), shortest), longest)

    @property
    def patience(self) -> int:
        """Steps after which the shortest interval is one longer where gradients are noisy, ≥ 1."""
        return min(max(round(EARLY_GRADIENTS / self.cost), 1), LONGEST_PATIENCE)


def make_plan(
    *,
    examples: int,
    output_shape: tuple[int, ...],
    event_axes: int,
    example_bytes: int,
    products: int,
    sliceable: bool = True,
    shards: int = 1,
) -> Plan:
    """Choose how a refresh is computed.

    Args:
        examples: examples of the training batch, a multiple of ``shards``.
        output_shape: shape of the network's output for the whole batch.
        event_axes: trailing axes of the output that make up one event.
        example_bytes: bytes of one example's inputs and targets.
        products: curvature products of a refresh.
        sliceable: can examples be taken from the batch.
        shards: devices the batch is split over.

    Returns:
        The plan.
    """
    numbers = ceil(prod(output_shape) / examples)
    events = max(prod(output_shape[1 : len(output_shape) - event_axes]), 1)
    kept, chunk = examples, None
    if sliceable:
        few = min(examples / SMALL_SHARE, MANY_EVENTS / events)
        wanted = max(examples / SHARE, MIN_EVENTS / events, few)
        kept = min(ceil(wanted / shards) * shards, examples)
        local = examples // shards
        if local * (example_bytes + 4 * numbers) > SMALL_BATCH_BYTES:
            largest = max(local // 4, 1) * shards
            if largest < kept:
                # Equal chunks: compiled, a rest of another size would be the same program once more.
                pieces = ceil(kept / largest)
                chunk = ceil(kept / (pieces * shards)) * shards
                kept = min(pieces, examples // chunk) * chunk
    stored = 2 * 4 * numbers * (chunk or kept) // shards * products
    store = stored <= GRAM_BYTES
    per_product = FORWARD if store else FORWARD_BACKWARD
    return Plan(
        examples=kept,
        chunk_size=chunk,
        store_tangents=store,
        cost=(products * per_product + JUDGEMENT) * kept / examples,
        held_out=kept / examples if sliceable else None,
    )
