"""Metrics on a network's outputs: the middle factor of C = Jᵀ M J.

For each loss type, the Fisher information of the output distribution (the second derivative of its KL
divergence) in closed form, so that no second derivative of the loss is needed:

    categorical (softmax)      diag(p) − p pᵀ                p = softmax(logits)
    Bernoulli (sigmoid)        p (1 − p)                     p = sigmoid(logits)
    Gaussian                   precision · I
    Laplace                    I / scale²
    framewise categorical      the categorical one per frame (connectionist temporal classification)
    Rényi-α                    α times that of the KL divergence

Every product is weighted event by event exactly as the loss is, and *not yet* divided by the loss's
normaliser; :mod:`llqr.curvature` does that. An *event* is what the loss sums over: one categorical
draw (all but the last axis index events), one Bernoulli, Gaussian or Laplace number.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from math import prod
from typing import Literal

from llqr.backend import Array, Backend


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
        return result if weights is None else result * self._expanded(output, weights)

    def normaliser(self, backend: Backend, output: Array, weights: Array | None) -> Array:
        """Return what a mean loss divides by: the (weighted) number of events or examples."""
        shape = tuple(output.shape)
        events = shape[: len(shape) - self.event_axes] if self.mean_over == "events" else shape[:1]
        if weights is None:
            return backend.asarray(float(prod(events)), output)
        repeats = prod(events[len(weights.shape) :])
        return weights.sum() * backend.asarray(float(repeats), output)

    def _expanded(self, output: Array, weights: Array) -> Array:
        shape = tuple(output.shape)
        events = shape[: len(shape) - self.event_axes]
        given = tuple(weights.shape)
        if given != events[: len(given)]:
            raise ValueError(
                f"weights must have a shape that the output's events {events} begin with, got "
                f"{given}; pass one weight per example or per event, as in the loss"
            )
        return weights.reshape(given + (1,) * (len(shape) - len(given)))

    def __add__(self, other: AbstractMetric) -> AbstractMetric:
        """Return the sum of two metrics on the same output."""
        return SumMetric(first=self, second=other)


@dataclass(frozen=True, kw_only=True)
class Categorical(AbstractMetric):
    """Fisher of softmax outputs: u ↦ p ∘ (u − ⟨p, u⟩). Logits and log-probabilities both serve."""

    @property
    def event_axes(self) -> int:
        """The last axis holds the classes."""
        return 1

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return (diag(p) − p pᵀ) u."""
        p = backend.softmax(output)
        mean = backend.einsum("...k,...k->...", p, tangent)
        return p * (tangent - mean.reshape((*mean.shape, 1)))


@dataclass(frozen=True, kw_only=True)
class FramewiseCategorical(AbstractMetric):
    """Fisher of per-frame softmax outputs [batch, frame, class], for losses such as CTC.

    The loss couples frames; the output distribution per frame does not, so its Fisher is the categorical
    one over unpadded frames. Pass weights [batch, frame], 0 on padding. A scalar loss counts as the mean
    over examples.
    """

    @property
    def event_axes(self) -> int:
        """The last axis holds the classes."""
        return 1

    @property
    def mean_over(self) -> Literal["events", "examples"]:
        """CTC losses are means over sequences."""
        return "examples"

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return (diag(p) − p pᵀ) u frame by frame."""
        return Categorical().unweighted_product(backend, output, tangent)

    def normaliser(self, backend: Backend, output: Array, weights: Array | None) -> Array:
        """Return the number of examples: frame weights do not change it."""
        return backend.asarray(float(output.shape[0]), output)


@dataclass(frozen=True, kw_only=True)
class AbstractElementwise(AbstractMetric):
    """Metrics whose events are single numbers.

    Attributes:
        reduction: is a scalar loss the mean over all ``"events"`` (every number) or over ``"examples"``
            (the leading axis, summed over the rest).
    """

    reduction: Literal["events", "examples"] = "events"

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.reduction not in ("events", "examples"):
            raise ValueError(
                f'reduction must be "events" or "examples", got {self.reduction!r}; '
                '"events" fits losses that average over every number'
            )

    @property
    def event_axes(self) -> int:
        """Every number is an event."""
        return 0

    @property
    def mean_over(self) -> Literal["events", "examples"]:
        """As set by ``reduction``."""
        return self.reduction


@dataclass(frozen=True, kw_only=True)
class Bernoulli(AbstractElementwise):
    """Fisher of sigmoid outputs: u ↦ p (1 − p) u."""

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return p (1 − p) u."""
        p = backend.sigmoid(output)
        return p * (1.0 - p) * tangent


@dataclass(frozen=True, kw_only=True)
class Gaussian(AbstractElementwise):
    """Fisher of Gaussian outputs: u ↦ precision · u.

    Attributes:
        precision: the factor such that the loss of an event is precision/2 · (prediction − target)²; 1
            for half the squared error, 2 for the squared error (``torch.nn.MSELoss``). Positive.
    """

    precision: float = 1.0

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        _check_positive("precision", self.precision)

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return precision · u."""
        return self.precision * tangent


@dataclass(frozen=True, kw_only=True)
class Laplace(AbstractElementwise):
    """Fisher of Laplace outputs with loss |prediction − target| / scale: u ↦ u / scale².

    Attributes:
        scale: the distribution's scale; 1 for the mean absolute error. Positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        """Validate the settings."""
        super().__post_init__()
        _check_positive("scale", self.scale)

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return u / scale²."""
        return (1.0 / self.scale**2) * tangent


@dataclass(frozen=True, kw_only=True)
class Renyi(AbstractMetric):
    """Second derivative of the Rényi divergence of an order: order times the Fisher of ``base``.

    Attributes:
        order: α > 0; 1 is the KL divergence.
        base: the Fisher metric of the output distribution.
    """

    order: float
    base: AbstractMetric

    def __post_init__(self) -> None:
        """Validate the settings."""
        _check_positive("order", self.order)
        _check_metric("base", self.base)

    @property
    def event_axes(self) -> int:
        """As the base metric's."""
        return self.base.event_axes

    @property
    def mean_over(self) -> Literal["events", "examples"]:
        """As the base metric's."""
        return self.base.mean_over

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return α F u."""
        return self.order * self.base.unweighted_product(backend, output, tangent)

    def normaliser(self, backend: Backend, output: Array, weights: Array | None) -> Array:
        """As the base metric's."""
        return self.base.normaliser(backend, output, weights)


@dataclass(frozen=True, kw_only=True)
class SumMetric(AbstractMetric):
    """The sum of two metrics on one output, e.g. ``Categorical() + Gaussian(precision=0.01)``.

    The first one decides what counts as an event and what a mean loss divides by.
    """

    first: AbstractMetric
    second: AbstractMetric

    def __post_init__(self) -> None:
        """Validate the settings."""
        _check_metric("first", self.first)
        _check_metric("second", self.second)

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
        return self.first.unweighted_product(
            backend, output, tangent
        ) + self.second.unweighted_product(backend, output, tangent)

    def normaliser(self, backend: Backend, output: Array, weights: Array | None) -> Array:
        """As the first metric's."""
        return self.first.normaliser(backend, output, weights)


def _check_positive(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and 0.0 < value < float("inf")):
        raise ValueError(
            f"{name} must be a finite number above 0, got {value!r}; pass e.g. {name}=1.0"
        )


def _check_metric(name: str, value: object) -> None:
    if not isinstance(value, AbstractMetric):
        raise TypeError(
            f"{name} must be a metric object, got {value!r}; pass e.g. llqr.divergences.Categorical()"
        )
