"""What every method provides: a step from a gradient, and a state of arrays only."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from llqr.backend import Array, Backend, Tensors

Shapes = Mapping[str, tuple[int, ...]]
Rates = Mapping[str, Array | float]
"""Learning rate of every parameter, by name."""


@dataclass(frozen=True, kw_only=True)
class AbstractMethod(abc.ABC):
    """A rule θ ← θ − step(gradients so far)."""

    @abc.abstractmethod
    def init(self, backend: Backend, like: Tensors) -> dict[str, Any]:
        """Return the state before any gradient: nested dicts and tuples of arrays.

        Args:
            backend: array operations.
            like: one array per parameter, of its shape, in the dtype the state shall have.
        """

    @abc.abstractmethod
    def update(
        self, backend: Backend, state: dict[str, Any], gradient: Tensors, rates: Rates
    ) -> tuple[Tensors, dict[str, Any]]:
        """Return the step to subtract from the parameters, and the new state.

        Args:
            backend: array operations.
            state: as :meth:`init` or the last call returned it; do not use it again afterwards.
            gradient: finite gradient at the parameters that the last step led to.
            rates: learning rate of every parameter.
        """

    @abc.abstractmethod
    def state_size(self, shapes: Shapes) -> int:
        """Return how many numbers the state holds for parameters of these shapes."""

    def describe(self, shapes: Shapes, bytes_per_number: int = 4) -> str:
        """Return one line: settings, parameters and memory."""
        count = sum(prod(shape) for shape in shapes.values())
        size = self.state_size(shapes) * bytes_per_number / 2**20
        return f"{self!r} on {count} parameters, state {size:.3g} MiB"


def shapes_of(values: Tensors) -> dict[str, tuple[int, ...]]:
    """Return name ↦ shape."""
    return {name: tuple(value.shape) for name, value in values.items()}
