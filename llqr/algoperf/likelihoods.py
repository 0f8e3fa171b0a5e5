"""From a workload's loss type to the distribution of its outputs, hence to the Fisher metric.

    softmax cross-entropy     categorical            weights: the batch's mask, one per event
    sigmoid cross-entropy     Bernoulli              weights: probed
    squared error             Gaussian               weights: probed
    absolute error            Laplace                weights: probed
    CTC                       framewise categorical  weights: unpadded frames of unmasked examples

Losses of single numbers may be sums or means over an example (pixels, labels), with masks of any shape.
What weight each number really has in the loss is therefore read off the loss itself: its slope is
w·(μ(o) − y) for a mean function μ (sigmoid, identity) and ±w for an absolute error, so two slopes give w
exactly and no second derivative is taken.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from llqr import divergences
from llqr.backend import Array
from llqr.metrics import AbstractMetric

Probe = Literal["mask", "frames", "sigmoid", "identity", "sign"]
"""How the weights of the events are found."""


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The output distribution a loss stands for.

    Attributes:
        metric: its Fisher metric.
        probe: where event weights come from.
    """

    metric: AbstractMetric
    probe: Probe


_LIKELIHOODS = {
    "SOFTMAX_CROSS_ENTROPY": Likelihood(metric=divergences.Categorical(), probe="mask"),
    "SIGMOID_CROSS_ENTROPY": Likelihood(metric=divergences.Bernoulli(), probe="sigmoid"),
    "MEAN_SQUARED_ERROR": Likelihood(metric=divergences.Gaussian(), probe="identity"),
    "MEAN_ABSOLUTE_ERROR": Likelihood(metric=divergences.Laplace(), probe="sign"),
    "CTC_LOSS": Likelihood(metric=divergences.FramewiseCategorical(), probe="frames"),
}


def likelihood_of(loss_type: Any, output_shape: tuple[int, ...], mask: Any) -> Likelihood:
    """Return the likelihood of a workload's loss.

    Args:
        loss_type: member of the ``LossType`` enumeration the workload uses.
        output_shape: shape of the network's output.
        mask: the batch's weights, or None.

    Raises:
        ValueError: for a loss type that has no likelihood here.
    """
    name = loss_name(loss_type)
    if name not in _LIKELIHOODS:
        raise ValueError(
            f"loss_type must be one of {', '.join(sorted(_LIKELIHOODS))}, got {loss_type!r}; add its "
            "output distribution to llqr.algoperf.likelihoods"
        )
    # A mask with one entry per output entry says that the entries are events of their own: one softmax over
    # them has but one event. Multi-label losses are declared as softmax in some workloads.
    if name == "SOFTMAX_CROSS_ENTROPY" and mask is not None and mask.shape == output_shape:
        name = "SIGMOID_CROSS_ENTROPY"
    return _LIKELIHOODS[name]


def loss_name(loss_type: Any) -> str:
    """Return the name of a loss type, a member of either specification's enumeration."""
    return getattr(loss_type, "name", str(loss_type))


def weights_from_slopes(
    probe: Probe, slope: Callable[[float], Array], sigmoid: Callable[[float], float]
) -> Array:
    """Return the weight of every output number in the summed loss.

    Args:
        probe: ``"sigmoid"``, ``"identity"`` or ``"sign"``.
        slope: constant c ↦ gradient of the summed loss in the outputs where all outputs are c.
        sigmoid: the logistic function of a number.
    """
    if probe == "sign":
        # The slope of w|o − y| is ±w, whatever y is; no target is that far away.
        return abs(slope(1e6))
    low, high = slope(-1.0), slope(1.0)
    change = sigmoid(1.0) - sigmoid(-1.0) if probe == "sigmoid" else 2.0
    return (high - low) / change


def specification(workload: Any) -> ModuleType:
    """Return the module that defines the enumerations a workload was written against.

    ``ForwardPassMode`` members compare by identity, so they must come from where the workload's own come
    from; its loss type is an instance of an enumeration of that module.

    Raises:
        TypeError: if that module defines no ``ForwardPassMode``.
    """
    module = importlib.import_module(type(workload.loss_type).__module__)
    if not hasattr(module, "ForwardPassMode"):
        raise TypeError(
            f"workload.loss_type must come from a module that also defines ForwardPassMode, got "
            f"{workload.loss_type!r} of {module.__name__}; use AlgoPerf's spec or workloads_extra.spec"
        )
    return module
