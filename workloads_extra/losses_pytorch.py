"""Losses of single examples or tokens in PyTorch, by loss type."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from workloads_extra.spec import LossType


def _softmax_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with integer classes, [..., classes] and [...] to [...]."""
    losses = F.cross_entropy(
        outputs.flatten(end_dim=-2), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    return losses.reshape(targets.shape)


def _sigmoid_cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with probabilities, summed over the outputs of an example."""
    probabilities = (1.0 - smoothing) * targets + 0.5 * smoothing
    losses = F.binary_cross_entropy_with_logits(outputs, probabilities, reduction="none")
    return losses.sum(dim=-1)


def _squared_error(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Squared error, summed over the outputs of an example."""
    del smoothing
    return ((outputs - targets) ** 2).sum(dim=-1)


def _absolute_error(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Absolute error, summed over the outputs of an example."""
    del smoothing
    return (outputs - targets).abs().sum(dim=-1)


LOSSES: dict[LossType, Callable[[Tensor, Tensor, float], Tensor]] = {
    LossType.SOFTMAX_CROSS_ENTROPY: _softmax_cross_entropy,
    LossType.SIGMOID_CROSS_ENTROPY: _sigmoid_cross_entropy,
    LossType.MEAN_SQUARED_ERROR: _squared_error,
    LossType.MEAN_ABSOLUTE_ERROR: _absolute_error,
}
"""(outputs, targets, label smoothing) ↦ losses, unweighted."""
