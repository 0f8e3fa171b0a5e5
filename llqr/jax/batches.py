"""Batches: pytrees of arrays whose leading axis is the example. How they are counted, cut and stacked.

Leaves without axes (numbers, typed random keys, None) belong to every example and are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def batch_size(batch: Any) -> int:
    """Return the number of examples.

    Raises:
        ValueError: if there are none, no leaf has axes, or leading axes differ.
    """
    sizes = {
        jax.tree_util.keystr(path): jnp.shape(leaf)[0]
        for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]
        if jnp.ndim(leaf)
    }
    if not sizes:
        raise ValueError(
            "batch must hold at least one array with a leading example axis, got none; pass the batch "
            "that outputs_fn and loss_fn take"
        )
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"batch must have one leading axis of examples in every array, got {sizes}; close over "
            "arrays that belong to no example in outputs_fn and loss_fn"
        )
    size = next(iter(sizes.values()))
    if size == 0:
        raise ValueError(
            "batch must hold at least one example, got 0; drop empty batches in the data pipeline"
        )
    return size


def first_examples(batch: Any, count: int | None) -> Any:
    """Return the first ``count`` examples; all of them if there are no more, or for None."""
    if count is None or count >= batch_size(batch):
        return batch
    return _on_examples(lambda leaf: leaf[:count], batch)


def every_second(batch: Any) -> Any:
    """Return the examples at even positions."""
    return _on_examples(lambda leaf: leaf[::2], batch)


def split(batch: Any, size: int) -> tuple[tuple[Any, Callable[[Any], Any]] | None, Any]:
    """Cut a batch into equal chunks and a rest.

    Args:
        batch: n examples.
        size: examples per chunk, 1 … n.

    Returns:
        ``(stacked, rebuild)`` and the rest. ``stacked`` is a list of arrays [n // size, size, …];
        ``rebuild`` makes a chunk from one element of each. The first is None if one chunk holds
        everything (the rest then is the batch itself), the second if nothing remains.
    """
    total = batch_size(batch)
    if size >= total:
        return None, batch
    count = total // size
    leaves, treedef = jax.tree.flatten(batch)
    moving = [bool(jnp.ndim(leaf)) for leaf in leaves]
    stacked = [
        jnp.reshape(leaf[: count * size], (count, size, *jnp.shape(leaf)[1:]))
        for leaf, moves in zip(leaves, moving, strict=True)
        if moves
    ]

    def rebuild(element: list[Any]) -> Any:
        parts = iter(element)
        return jax.tree.unflatten(
            treedef,
            [next(parts) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True)],
        )

    rest = None
    if count * size < total:
        rest = _on_examples(lambda leaf: leaf[count * size :], batch)
    return (stacked, rebuild), rest


def _on_examples(function: Callable[[Any], Any], batch: Any) -> Any:
    return jax.tree.map(lambda leaf: function(leaf) if jnp.ndim(leaf) else leaf, batch)
