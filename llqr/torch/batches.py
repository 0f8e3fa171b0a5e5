"""Cutting a batch: any nesting of tuples, lists and dictionaries whose tensors lead with the example axis.

Leaves without a leading axis (numbers, None, 0-d tensors, other objects) belong to every piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def batch_size(batch: Any) -> int | None:
    """Return the number of examples, None if no leaf has a leading axis.

    Raises:
        ValueError: if leaves disagree, or there are no examples.
    """
    sizes = {leaf.shape[0] for leaf in _leaves(batch) if _has_examples(leaf)}
    if 0 in sizes:
        raise ValueError("batch must hold at least one example, got size 0; pass a non-empty batch")
    if len(sizes) > 1:
        raise ValueError(
            "all arrays of the batch must have the same leading axis (the example), got sizes "
            f"{sorted(sizes)}; move the example axis first, or close over arrays that have none"
        )
    return sizes.pop() if sizes else None


def first_examples(batch: Any, count: int) -> Any:
    """Return the first ``count`` examples (all of them if there are fewer)."""
    return _map(lambda leaf: leaf[:count] if _has_examples(leaf) else leaf, batch)


def every_second(batch: Any) -> Any:
    """Return the examples at even positions; a batch without a leading axis as it is."""
    return _map(lambda leaf: leaf[::2] if _has_examples(leaf) else leaf, batch)


def chunks(batch: Any, chunk_size: int | None) -> Iterator[Any]:
    """Yield consecutive pieces of at most ``chunk_size`` examples; the batch itself for None.

    Raises:
        ValueError: if the batch has no leading axis to cut along.
    """
    size = batch_size(batch)
    if chunk_size is None or (size is not None and size <= chunk_size):
        yield batch
        return
    if size is None:
        raise ValueError(
            f"chunk_size={chunk_size} needs a batch of arrays with a leading example axis, got "
            f"{type(batch).__name__}; pass tensors in tuples, lists or dicts, or chunk_size=None"
        )
    for start in range(0, size, chunk_size):
        stop = start + chunk_size

        def piece(leaf: Any, start: int = start, stop: int = stop) -> Any:
            return leaf[start:stop] if _has_examples(leaf) else leaf

        yield _map(piece, batch)


def _has_examples(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", ())) > 0


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, Mapping):
        for value in batch.values():
            yield from _leaves(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from _leaves(value)
    else:
        yield batch


def _map(function: Callable[[Any], Any], batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {key: _map(function, value) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        parts = [_map(function, value) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return function(batch)
