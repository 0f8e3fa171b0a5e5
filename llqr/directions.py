"""Directions in the space of parameters, grouped by the parameters that they move.

A forward product J d costs nothing in the layers before the first one that d moves. Products taken group by
group therefore cost less than products along vectors that are mostly zero. Where computations are compiled,
every group would be a program of its own, and one for all is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llqr.backend import Array, Tensors


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Directions d_1, …, d_n that move the same parameters.

    Attributes:
        count: n ≥ 1.
        combine: e [n] ↦ Σ_j e_j d_j, without the parameters that none of them moves.
    """

    count: int
    combine: Callable[[Array], Tensors]


def joined(groups: Sequence[Directions]) -> Directions:
    """Return the directions of all groups, in their order, as one group.

    Args:
        groups: no two of which move the same parameter.
    """

    def combine(coefficients: Array) -> Tensors:
        result: Tensors = {}
        start = 0
        for group in groups:
            result.update(group.combine(coefficients[start : start + group.count]))
            start += group.count
        return result

    return Directions(count=sum(group.count for group in groups), combine=combine)
