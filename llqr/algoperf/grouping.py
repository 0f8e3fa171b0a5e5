"""Which parameters share step sizes, and which are too large to precondition.

A refresh of a span costs one forward product per direction, so a network of hundreds of tensors cannot have
one step size for each. Groups are as fine as a limit on their number allows: parameters, layers, then ever
shorter prefixes of the parameters' names, which follow the modules of the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from llqr._checks import check_positive_int
from llqr.structures import Span
from llqr.structures.base import Shape

EVERYTHING = "all parameters"
"""Name of the group that a prefix of length zero makes."""

MAX_ENTRIES = 2**26
"""Larger tensors (256 MiB in float32) are left to the base optimizer: a refresh holds several copies."""


@dataclass(frozen=True, kw_only=True)
class PrefixSpan(Span):
    """A span whose step sizes serve all parameters with the same beginning of their names.

    Attributes:
        depth: number of parts of the name, separated by ``/`` or ``.``, that make the beginning; ≥ 0.
    """

    depth: int = 1

    def owner(self, name: str) -> str:
        """Return the beginning of the name."""
        return prefix(name, self.depth)


def prefix(name: str, depth: int) -> str:
    """Return the first ``depth`` parts of a name, never the last part."""
    parts = re.split(r"([/.])", name)
    # Parts and separators alternate.
    kept = parts[:-2][: max(2 * depth - 1, 0)]
    return "".join(kept) or EVERYTHING


def step_sizes(
    names: Iterable[str], *, directions: tuple[str, ...], max_groups: int, floor: float | None = 0.0
) -> Span:
    """Return the finest span with at most ``max_groups`` groups.

    Args:
        names: parameter names.
        directions: see :class:`llqr.structures.Span`.
        max_groups: limit on the number of groups, ≥ 1.
        floor: lower bound of every step size.

    Returns:
        A span per parameter, per layer, or per beginning of names.
    """
    check_positive_int("max_groups", max_groups)
    names = list(names)
    deepest = max(len(re.split(r"[/.]", name)) for name in names) - 1
    choices = [
        Span(per="parameter", directions=directions, floor=floor),
        Span(per="layer", directions=directions, floor=floor),
        *(
            PrefixSpan(per="layer", directions=directions, floor=floor, depth=depth)
            for depth in range(deepest - 1, -1, -1)
        ),
    ]
    for choice in choices:
        if len({choice.owner(name) for name in names}) <= max_groups:
            return choice
    return choices[-1]


def too_large(shapes: Mapping[str, Shape], limit: int = MAX_ENTRIES) -> frozenset[str]:
    """Return the names of parameters with more entries than the limit."""
    return frozenset(name for name, shape in shapes.items() if prod(shape) > limit)
