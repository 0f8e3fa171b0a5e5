"""The vectors that structures act on: the gradient, and the update that the base optimizer makes of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from llqr.backend import Tensors
from llqr.torch.gradients import ExchangedGradients, Snapshot

Sources = dict[str, Tensors]
"""Source name ↦ one tensor per parameter."""


def of_gradient(gradient: Tensors) -> Sources:
    """Return the sources in gradient mode."""
    return {"input": gradient, "gradient": gradient}


def of_update(
    before: Snapshot, parameters: Mapping[str, Tensor], gradient: Tensors, dtype: torch.dtype
) -> Sources:
    """Return g, and the update u = θ − base(θ, g) that the base optimizer has just made.

    Args:
        before: holds θ.
        parameters: now base(θ, g).
        gradient: g.
        dtype: of u.
    """
    update = {
        name: before.values[name].to(dtype) - parameter.to(dtype)
        for name, parameter in parameters.items()
    }
    return {"input": update, "update": update, "gradient": gradient}


def of_tried_update(
    base: Optimizer,
    before: Snapshot,
    parameters: Mapping[str, Tensor],
    gradient: Tensors,
    dtype: torch.dtype,
) -> Sources | None:
    """Return what the base optimizer would do with another gradient; nothing has changed then.

    None for sparse gradients, which the other one is not.

    Args:
        base: the base optimizer.
        before: parameters and state to go back to.
        parameters: of the base optimizer, with the gradients of training.
        gradient: the other gradient.
        dtype: of the update.
    """
    if any(value.grad is not None and value.grad.is_sparse for value in parameters.values()):
        return None
    exchanged = ExchangedGradients(parameters)
    exchanged.show(gradient)
    try:
        base.step()
        return of_update(before, parameters, gradient, dtype)
    finally:
        exchanged.restore()
        before.restore()
