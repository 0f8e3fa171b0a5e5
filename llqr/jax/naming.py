"""Pytrees of parameters ↔ the flat dict of named arrays the core works on.

A name joins the path with ``/``: ``{"layer": {"kernel": …}}`` gives ``layer/kernel``, the third element of
a list ``2``. The attribute that ``flax.nnx`` variables keep their array under is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from llqr.backend import Tensors

_VARIABLE_ATTRIBUTES = ("value", "raw_value")
SINGLE = "parameter"
"""Name of a pytree that is one bare array."""


def named_leaves(tree: Any) -> dict[str, Array]:
    """Return name ↦ leaf in the order of ``jax.tree.leaves``.

    Args:
        tree: any pytree of arrays: nested dicts, lists, tuples, ``flax.linen`` parameters,
            ``flax.nnx.State``, one bare array.

    Raises:
        ValueError: if two leaves get the same name.
    """
    result: dict[str, Array] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = _name(path)
        if name in result:
            raise ValueError(
                f"parameter names must differ, got {name!r} twice; rename a key that holds '/' or use "
                "keys that differ as text"
            )
        result[name] = leaf
    return result


def _name(path: tuple[Any, ...]) -> str:
    if path and isinstance(path[-1], GetAttrKey) and path[-1].name in _VARIABLE_ATTRIBUTES:
        path = path[:-1]
    return "/".join(_entry(key) for key in path) or SINGLE


def _entry(key: Any) -> str:
    match key:
        case DictKey() | FlattenedIndexKey():
            return str(key.key)
        case SequenceKey():
            return str(key.idx)
        case GetAttrKey():
            return key.name
        case _:
            return str(key)


@dataclass(frozen=True)
class Naming:
    """The names, shapes and dtypes of a pytree of parameters, and the way back to it.

    Attributes:
        names: one name per leaf, in leaf order.
        shapes: name ↦ shape.
        dtypes: name ↦ dtype.
        treedef: the pytree's structure.
    """

    names: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, Any]
    treedef: Any

    @staticmethod
    def of(params: Any) -> Naming:
        """Describe a pytree of parameters (arrays, or ``jax.ShapeDtypeStruct``).

        Returns:
            The description.

        Raises:
            ValueError: if there are no leaves.
            TypeError: if a leaf is no real floating-point array.
        """
        arrays = named_leaves(jax.eval_shape(lambda tree: tree, params))
        if not arrays:
            raise ValueError(
                "params must hold at least one array, got an empty pytree; pass the trainable parameters"
            )
        for name, leaf in arrays.items():
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"params must be floating-point arrays, got dtype {leaf.dtype} for {name!r}; keep "
                    "counters and other integers out of params, e.g. in the batch or a closure"
                )
        return Naming(
            names=tuple(arrays),
            shapes={name: tuple(leaf.shape) for name, leaf in arrays.items()},
            dtypes={name: leaf.dtype for name, leaf in arrays.items()},
            treedef=jax.tree.structure(params),
        )

    @property
    def factor_dtype(self) -> Any:
        """float64 if any parameter is, else float32: half precision is too coarse for factors."""
        return jnp.float64 if jnp.float64 in self.dtypes.values() else jnp.float32

    def flatten(self, tree: Any, argument: str = "updates") -> Tensors:
        """Return the named leaves of a pytree like the parameters, in the factor dtype.

        Raises:
            ValueError: if the names or shapes differ from the parameters'.
        """
        leaves = named_leaves(tree)
        if leaves.keys() != self.shapes.keys():
            extra, missing = leaves.keys() - self.shapes.keys(), self.shapes.keys() - leaves.keys()
            raise ValueError(
                f"{argument} must have the structure of params, got the additional leaves "
                f"{sorted(extra)} and miss {sorted(missing)}; pass the gradient in params"
            )
        for name in self.names:
            if jnp.shape(leaves[name]) != self.shapes[name]:
                raise ValueError(
                    f"{argument} must have the shapes of params, got {jnp.shape(leaves[name])} instead "
                    f"of {self.shapes[name]} for {name!r}; pass the gradient in params"
                )
        return {name: jnp.asarray(leaves[name], self.factor_dtype) for name in self.names}

    def unflatten(self, tensors: Mapping[str, Array]) -> Any:
        """Return the pytree of parameters with these leaves, in the parameters' dtypes."""
        leaves = [tensors[name].astype(self.dtypes[name]) for name in self.names]
        return jax.tree.unflatten(self.treedef, leaves)


def like_tree(tensors: Mapping[str, Array], tree: Any) -> Any:
    """Return ``tree`` with its leaves replaced by those of the same name, in its dtypes."""
    leaves = [
        tensors[name].astype(jnp.asarray(leaf).dtype) for name, leaf in named_leaves(tree).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def is_masked(leaf: Any) -> bool:
    """Is this what ``optax.masked`` puts in place of a parameter it hides."""
    return isinstance(leaf, optax.MaskedNode)


def has_masked(params: Any) -> bool:
    """Does ``optax.masked`` hide some of the parameters."""
    return any(is_masked(leaf) for leaf in jax.tree.leaves(params, is_leaf=is_masked))


def unmask(params: Any, full_params: Any) -> Any:
    """Return ``params`` with what ``optax.masked`` hides taken from ``full_params``."""
    return jax.tree.map(
        lambda leaf, full: full if is_masked(leaf) else leaf, params, full_params, is_leaf=is_masked
    )
