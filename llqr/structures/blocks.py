"""Which structure each parameter gets, and how parameters become the blocks structures see.

Convolution kernels and per-head projections fold to two axes; the parameters of one layer join into one
vector in alphabetical order of their names (so bias before kernel or weight).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from llqr.backend import Array, Backend, Tensors
from llqr.structures.base import AbstractStructure, Factors, Shape

StructureChoice = AbstractStructure | Callable[[str, Shape], AbstractStructure]
"""One structure for everything, or a function of parameter name and shape."""

Fold = Callable[[str, Shape], int]
"""(name, shape) ↦ k: a weight of three or more axes folds to [shape[:k], shape[k:]]."""


def fold_output_last(name: str, shape: Shape) -> int:
    """Fold for frameworks that store the output axis last (JAX: HWIO kernels, DenseGeneral).

    Three axes (per-head projections [d, heads, head_dim] or [heads, head_dim, d], 1-D convolutions
    [width, in, out]) fold where the two sides are most alike. More axes are convolutions, output axis
    apart; a first axis that is the longest and at least 16 marks a fused projection [d, 3, heads,
    head_dim] instead, which folds after that axis.

    Returns:
        The number of axes that become rows.
    """
    if len(shape) == 3:
        return min((1, 2), key=lambda k: prod(shape[:k]) + prod(shape[k:]))
    if shape[0] == max(shape) and shape[0] >= 16:
        return 1
    return len(shape) - 1


def fold_output_first(name: str, shape: Shape) -> int:
    """Fold for frameworks that store the output axis first (torch: OIHW kernels)."""
    return 1


@dataclass(frozen=True)
class Block:
    """The parameters that share one set of factors.

    Attributes:
        name: the parameter's or the layer's name.
        parameters: names of its parameters, in the order in which they join.
        shapes: their shapes.
        block_shape: shape the structure sees.
        structure: the structure after fallbacks.
    """

    name: str
    parameters: tuple[str, ...]
    shapes: tuple[Shape, ...]
    block_shape: Shape
    structure: AbstractStructure

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the vectors the structure acts on."""
        return self.structure.sources

    def gather(self, backend: Backend, sources: Mapping[str, Tensors]) -> Array:
        """Return the block's input: [*block_shape], stacked on a first axis for several sources."""
        joined = [self.join(backend, sources[name]) for name in self.sources]
        return backend.stack(joined) if self.structure.stacks_sources else joined[0]

    def join(self, backend: Backend, values: Tensors) -> Array:
        """Return this block's part of ``values`` in the shape the structure sees."""
        if len(self.parameters) == 1:
            return values[self.parameters[0]].reshape(self.block_shape)
        return backend.concatenate([values[name].reshape((-1,)) for name in self.parameters])

    def split(self, value: Array) -> Tensors:
        """Undo :meth:`join`."""
        if len(self.parameters) == 1:
            return {self.parameters[0]: value.reshape(self.shapes[0])}
        result, start = {}, 0
        for name, shape in zip(self.parameters, self.shapes, strict=True):
            size = prod(shape)
            result[name] = value[start : start + size].reshape(shape)
            start += size
        return result


def make_blocks(
    shapes: Mapping[str, Shape], choice: StructureChoice, fold: Fold = fold_output_last
) -> tuple[Block, ...]:
    """Assign a structure to every parameter and group what shares factors.

    Args:
        shapes: parameter name ↦ shape; scalars and empty tensors are welcome.
        choice: one structure, or a function of name and shape.
        fold: where weights of three or more axes fold.

    Returns:
        Blocks sorted by name; every parameter is in exactly one.

    Raises:
        TypeError: if ``choice`` yields something that is not a structure.
        ValueError: if there are no parameters, or ``fold`` returns an impossible axis.
    """
    if not shapes:
        raise ValueError("there are no parameters to precondition; pass at least one trainable one")
    groups: dict[tuple[str, AbstractStructure], list[str]] = {}
    for name in sorted(shapes):
        structure = choice if isinstance(choice, AbstractStructure) else choice(name, shapes[name])
        if not isinstance(structure, AbstractStructure):
            raise TypeError(
                f"structure for parameter {name!r} must be a structure object, got {structure!r}; "
                "pass e.g. llqr.structures.Diagonal() or use llqr.config.make_structure('diagonal')"
            )
        groups.setdefault((structure.owner(name), structure), []).append(name)
    owners = [owner for owner, _ in groups]
    return tuple(
        _make_block(
            owner if owners.count(owner) == 1 else f"{owner}[{'+'.join(names)}]",
            names,
            shapes,
            structure,
            fold,
        )
        for (owner, structure), names in sorted(groups.items(), key=lambda item: item[1][0])
    )


def _make_block(
    owner: str,
    names: Sequence[str],
    shapes: Mapping[str, Shape],
    structure: AbstractStructure,
    fold: Fold,
) -> Block:
    own = tuple(tuple(shapes[name]) for name in names)
    if structure.layout == "vector":
        block_shape: Shape = (sum(prod(shape) for shape in own),)
    elif len(names) > 1:
        raise ValueError(
            f"a structure that several parameters share must see them as one vector, got layout "
            f'"folded" for {", ".join(names)}; set layout = "vector" on {type(structure).__name__}'
        )
    else:
        block_shape = fold_shape(names[0], own[0], fold)
    return Block(owner, tuple(names), own, block_shape, structure.resolve(block_shape))


def fold_shape(name: str, shape: Shape, fold: Fold) -> Shape:
    """Return the two-axis shape of a weight; scalars become (1,), vectors and matrices stay.

    Raises:
        ValueError: if ``fold`` returns an axis outside 1 … ndim − 1.
    """
    if len(shape) <= 2:
        return shape or (1,)
    axis = fold(name, shape)
    if not 1 <= axis < len(shape):
        raise ValueError(
            f"fold for parameter {name!r} of shape {shape} must lie in 1 … {len(shape) - 1}, "
            f"got {axis}; it is the number of axes that become rows"
        )
    return (prod(shape[:axis]), prod(shape[axis:]))


BlockFactors = dict[str, Factors]
"""Factors of all blocks, by block name."""


def report(blocks: Sequence[Block], bytes_per_entry: int = 4) -> str:
    """Return a table: what each parameter gets and the memory its factors take.

    Args:
        blocks: the blocks of a model.
        bytes_per_entry: 4 for float32, 8 for float64.
    """
    rows = [("parameter", "shape", "structure", "factors", "KiB")]
    total = parameters = 0
    for block in blocks:
        count = block.structure.factor_count(block.block_shape)
        total += count
        parameters += sum(prod(shape) for shape in block.shapes)
        for index, (name, shape) in enumerate(zip(block.parameters, block.shapes, strict=True)):
            first = index == 0
            rows.append(
                (
                    name,
                    str(shape),
                    block.structure.describe(block.block_shape)
                    if first
                    else "  as above (same layer)",
                    str(count) if first else "",
                    f"{count * bytes_per_entry / 1024:.1f}" if first else "",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    share = f" ({total / parameters:.2f} per parameter entry)" if parameters else ""
    lines.append(f"total: {total} factors, {total * bytes_per_entry / 1024:.1f} KiB{share}")
    return "\n".join(lines)
