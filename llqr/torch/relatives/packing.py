"""Nested states as flat dictionaries of tensors, for ``state_dict``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def map_leaves(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return a nested state with a function applied to every tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    parts = [map_leaves(function, value) for value in tree]
    # A NamedTuple takes its fields one by one, a tuple takes a sequence.
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def pack(tree: Any) -> dict[str, Tensor]:
    """Return path ↦ copy of every tensor in a nested state."""
    return {path: value.detach().clone() for path, value in _leaves(tree, ())}


def unpack(saved: Any, tree: Any) -> Any:
    """Return saved tensors in the structure, dtypes and on the devices of a nested state.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or of another shape.
    """
    own = dict(_leaves(tree, ()))
    if not isinstance(saved, Mapping):
        raise ValueError(
            f"the method's state must be a dict of tensors, got {type(saved).__name__}; pass what "
            "state_dict() returned"
        )
    for path in sorted({*own, *saved}):
        mine, theirs = own.get(path), saved.get(path)
        if mine is None or theirs is None or mine.shape != theirs.shape:
            raise ValueError(
                f"state_dict belongs to another configuration: {path!r} is {_shape(mine)} here and "
                f"{_shape(theirs)} in the state; build the optimizer with the method and the "
                "parameters it was saved with"
            )
    copies = {path: value.to(own[path], copy=True) for path, value in saved.items()}
    flat = iter([copies[path] for path, _ in _leaves(tree, ())])
    return map_leaves(lambda _: next(flat), tree)


def _leaves(tree: Any, path: tuple[str, ...]) -> list[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        return [("/".join(path), tree)]
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return [leaf for key, value in items for leaf in _leaves(value, (*path, str(key)))]


def _shape(value: Tensor | None) -> str:
    return "missing" if value is None else f"of shape {tuple(value.shape)}"
