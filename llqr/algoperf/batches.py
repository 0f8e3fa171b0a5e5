"""The examples of a training batch, and which of them serve as curvature batch.

Written for NumPy, JAX and torch arrays alike. Examples are taken at even distances, the same number from
every device's share, so that a batch sharded over devices needs no communication and several processes
together take the examples one process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Batch = Mapping[str, Any]


def arrays(tree: Any) -> Iterator[Any]:
    """Yield everything with a shape of at least one axis in nested dicts, lists and tuples."""
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        for value in tree:
            yield from arrays(value)
    elif len(getattr(tree, "shape", ())) > 0:
        yield tree


def example_count(batch: Batch) -> int:
    """Return the number of examples: the leading axis of the targets.

    Raises:
        ValueError: if there are no targets, or no examples.
    """
    sizes = [array.shape[0] for array in arrays(batch.get("targets"))]
    if not sizes or sizes[0] == 0:
        raise ValueError(
            f'batch["targets"] must hold at least one example, got sizes {sizes}; check the data '
            "selection"
        )
    return sizes[0]


def epoch_length(workload: Any, batch: Batch, processes: int = 1) -> float:
    """Return the number of steps in which all training examples are seen once, at least 1.

    Args:
        workload: for its ``num_train_examples``.
        batch: of one process.
        processes: number of processes, each with a batch of this size.

    Raises:
        ValueError: for a batch without targets or examples.
    """
    return max(1.0, workload.num_train_examples / (processes * example_count(batch)))


def is_sliceable(tree: Any, examples: int) -> bool:
    """Is the leading axis of every array the example.

    Named tuples (such as graphs, whose nodes and edges are numbered across examples) are records of their
    own and never cut.

    Returns:
        False if an array has another leading axis, or for a named tuple.
    """
    if hasattr(tree, "_fields"):
        return False
    if isinstance(tree, Mapping):
        return all(is_sliceable(value, examples) for value in tree.values())
    if isinstance(tree, (list, tuple)):
        return all(is_sliceable(value, examples) for value in tree)
    shape = getattr(tree, "shape", ())
    return len(shape) == 0 or shape[0] == examples


def map_arrays(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to every array with axes in nested dicts, lists and plain tuples."""
    if isinstance(tree, Mapping):
        return {key: map_arrays(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_arrays(function, value) for value in tree)
    return function(tree) if len(getattr(tree, "shape", ())) > 0 else tree


def take_evenly(tree: Any, examples: int, kept: int, shards: int = 1, first: int = 0) -> Any:
    """Return ``kept`` of ``examples`` examples at even distances, equally many of every shard.

    Args:
        tree: sliceable tree of arrays [examples, …].
        examples: number of examples, a multiple of ``shards``.
        kept: number to keep, a multiple of ``shards``.
        shards: devices the leading axis is split over.
        first: position in every shard of the first one taken, below examples / kept.

    Returns:
        A tree of arrays [kept, …].
    """
    if kept >= examples:
        return tree
    per_shard, kept_per_shard = examples // shards, kept // shards
    stride = per_shard // kept_per_shard

    def take(array: Any) -> Any:
        rows = array.reshape((shards, per_shard, *array.shape[1:]))
        rows = rows[:, first : stride * kept_per_shard : stride]
        return rows.reshape((kept, *array.shape[1:]))

    return map_arrays(take, tree)


def halves(tree: Any, examples: int, shards: int = 1) -> tuple[Any, Any]:
    """Return the examples at even and at odd positions of every shard, equally many.

    Args:
        tree: sliceable tree of arrays [examples, …].
        examples: number of examples, a multiple of ``shards``, at least four of each.
        shards: devices the leading axis is split over.

    Returns:
        Two trees of arrays [half as many, …].
    """
    kept = shards * (examples // shards // 2)
    even, odd = (take_evenly(tree, examples, kept, shards, first) for first in (0, 1))
    return even, odd
