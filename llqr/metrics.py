"""What a metric on a network's output is: the middle factor M of C = Jᵀ M J, as a product.

Every product is weighted event by event exactly as the loss is, and *not yet* divided by the loss's
normaliser; :mod:`llqr.curvature` does that. An *event* is what the loss sums over: one categorical
draw (all but the last axis index events), one Bernoulli, Gaussian or Laplace number.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from math import prod
from typing import Literal

from llqr.backend import Array, Backend, machine_epsilon
from llqr.structures.base import Shape


@dataclass(frozen=True, kw_only=True)
class AbstractMetric(abc.ABC):
    """A symmetric positive semi-definite matrix on one output, as a product."""

    @property
    @abc.abstractmethod
    def event_axes(self) -> int:
        """How many trailing output axes make up one event (1 for categorical, else 0)."""

    @property
    def mean_over(self) -> Literal["events", "examples"]:
        """What a scalar loss is the mean over: all events, or the leading axis only."""
        return "events"

    @abc.abstractmethod
    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return M u for every event; both arrays have the output's shape."""

    def product(
        self, backend: Backend, output: Array, weights: Array | None, tangent: Array
    ) -> Array:
        """Return the weighted M u.

        Args:
            backend: array operations.
            output: network output (logits, means), events along its leading axes.
            weights: per-event weights or mask as in the loss; shape is a prefix of the output's.
            tangent: u, of the output's shape.

        Raises:
            ValueError: if the shape of ``weights`` is no prefix of the output's event shape.
        """
        result = self.unweighted_product(backend, output, tangent)
        if weights is None:
            return result
        self._check_weights(output, weights)
        trailing = len(output.shape) - len(weights.shape)
        expanded = weights.reshape(tuple(weights.shape) + (1,) * trailing)
        # A mask may be boolean or of higher precision; the product keeps the tangent's dtype.
        return result * backend.asarray(expanded, result)

    def normaliser(self, backend: Backend, output: Array, weights: Array | None) -> Array:
        """Return what a mean loss divides by: the (weighted) number of events or examples.

        Weights beyond the leading axis (e.g. per frame) do not change the number of examples.

        Args:
            backend: array operations.
            output: network output, events along its leading axes.
            weights: as in :meth:`product`.

        Raises:
            ValueError: if the shape of ``weights`` is no prefix of the output's event shape.
        """
        counted = self._events(output)[: 1 if self.mean_over == "examples" else None]
        if weights is not None:
            self._check_weights(output, weights)
        if weights is None or len(weights.shape) > len(counted):
            return _count(backend, prod(counted), output)
        return weights.sum() * _count(backend, prod(counted[len(weights.shape) :]), output)

    def _events(self, output: Array) -> Shape:
        shape = tuple(output.shape)
        return shape[: len(shape) - self.event_axes]

    def _check_weights(self, output: Array, weights: Array) -> None:
        events, given = self._events(output), tuple(weights.shape)
        if given != events[: len(given)]:
            raise ValueError(
                f"weights must have a shape that the output's events {events} begin with, got "
                f"{given}; pass one weight per example or per event, as in the loss"
            )

    def __add__(self, other: AbstractMetric) -> AbstractMetric:
        """Return the sum of two metrics on the same output."""
        return SumMetric(first=self, second=other)


@dataclass(frozen=True, kw_only=True)
class SumMetric(AbstractMetric):
    """The sum of two metrics on one output, e.g. ``Categorical() + Gaussian(precision=0.01)``.

    The first one decides what counts as an event and what a mean loss divides by.
    """

    first: AbstractMetric
    second: AbstractMetric

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_metric("first", self.first)
        check_metric("second", self.second)

    @property
    def event_axes(self) -> int:
        """As the first metric's."""
        return self.first.event_axes

    @property
    def mean_over(self) -> Literal["events", "examples"]:
        """As the first metric's."""
        return self.first.mean_over

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return (M₁ + M₂) u."""
        first = self.first.unweighted_product(backend, output, tangent)
        return first + self.second.unweighted_product(backend, output, tangent)


def _count(backend: Backend, number: int, like: Array) -> Array:
    """Return a count as an array; an integer where the output's own dtype could not hold it exactly."""
    if machine_epsilon(like) > 2.0**-20:
        return backend.integer(number, like)
    return backend.asarray(float(number), like)


def check_metric(name: str, value: object) -> None:
    """Raise unless ``value`` is a metric object.

    Raises:
        TypeError: with the argument's name, the rule, the value and the remedy.
    """
    if not isinstance(value, AbstractMetric):
        raise TypeError(
            f"{name} must be a metric object, got {value!r}; pass e.g. llqr.divergences.Categorical()"
        )
