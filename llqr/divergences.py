"""Fisher metrics of the output distributions that losses stand for, in closed form.

The second derivative of the KL divergence between two output distributions, at equal outputs; no
second derivative of the loss is needed, so losses without one (CTC, absolute error) work as well:

    categorical (softmax)      diag(p) − p pᵀ                p = softmax(logits)
    Bernoulli (sigmoid)        p (1 − p)                     p = sigmoid(logits)
    Gaussian                   precision · I
    Laplace                    I / scale²                    (expected outer product of scores)
    framewise categorical      the categorical one per frame (connectionist temporal classification)
    Rényi-α                    α times that of the KL divergence

Weights, masks and normalisers: :mod:`llqr.metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llqr._checks import check_positive
from llqr.backend import Array, Backend
from llqr.metrics import AbstractMetric, SumMetric, check_metric

__all__ = [
    "AbstractMetric",
    "Bernoulli",
    "Categorical",
    "FramewiseCategorical",
    "Gaussian",
    "Laplace",
    "Renyi",
    "SumMetric",
]


@dataclass(frozen=True, kw_only=True)
class AbstractCategorical(AbstractMetric):
    """Metrics of softmax outputs; logits and log-probabilities both serve."""

    @property
    def event_axes(self) -> int:
        """The last axis holds the classes."""
        return 1

    def unweighted_product(self, backend: Backend, output: Array, tangent: Array) -> Array:
        """Return (diag(p) − p pᵀ) u = p ∘ (u − ⟨p, u⟩) for every event."""
        p = backend.softmax(output)
        mean = backend.einsum("...k,...k->...", p, tangent)
        return p * (tangent - mean.reshape((*mean.shape, 1)))


@dataclass(frozen=True, kw_only=True)
class Categorical(AbstractCategorical):
    """Fisher of softmax outputs [..., class]; a scalar loss counts as the mean over all events."""


@dataclass(frozen=True, kw_only=True)
class FramewiseCategorical(AbstractCategorical):
    """Fisher of per-frame softmax outputs [batch, frame, class], for losses such as CTC.

    The loss couples frames; the output distribution per frame does not, so its Fisher is the categorical
    one over unpadded frames. Pass weights [batch, frame], 0 on padding. A scalar loss counts as the mean
    over examples.
    """

    @property
    def mean_over(self) -> Literal["events", "examples"]:
        """CTC losses are means over sequences."""
        return "examples"


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
        # 1 − p as sigmoid(−x): the difference would vanish for large logits.
        return backend.sigmoid(output) * backend.sigmoid(-output) * tangent


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
        check_positive("precision", self.precision)

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
        check_positive("scale", self.scale)

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

    order: float  # α
    base: AbstractMetric

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive("order", self.order)
        check_metric("base", self.base)

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
