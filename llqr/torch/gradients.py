"""Reading and exchanging ``.grad`` and parameters around the base optimizer's step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from llqr.backend import Tensors


def training_gradient(parameters: Mapping[str, Tensor], dtype: torch.dtype) -> Tensors:
    """Return ``.grad`` of every parameter in a dtype; zeros where there is none."""
    return {
        name: torch.zeros_like(parameter, dtype=dtype)
        if parameter.grad is None
        else _dense(parameter.grad).to(dtype)
        for name, parameter in parameters.items()
    }


def non_finite_names(parameters: Mapping[str, Tensor]) -> list[str]:
    """Return the names of parameters with NaN or Inf in ``.grad``; waits for the device once."""
    found = {
        name: _dense(parameter.grad)
        for name, parameter in parameters.items()
        if parameter.grad is not None and parameter.grad.numel() > 0
    }
    if not found:
        return []
    values = list(found.values())
    # Quicker than the largest magnitudes, and all are finite if the sum of their squares is.
    if all(math.isfinite(norm) for norm in torch.stack(torch._foreach_norm(values)).tolist()):
        return []
    # NaN goes through the maximum.
    largest = torch._foreach_norm(values, math.inf)
    flags = torch.stack([value < math.inf for value in largest]).tolist()
    return [name for name, finite in zip(found, flags, strict=True) if not finite]


class ExchangedGradients:
    """Shows the base optimizer preconditioned gradients, and puts the raw ones back."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._raw: dict[str, Tensor] = {}

    def show(self, gradient: Tensors) -> None:
        """Put U g in the place of every gradient there is, in its dtype."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._raw[name] = parameter.grad
                parameter.grad = gradient[name].to(parameter.grad.dtype)

    def restore(self) -> None:
        """Put the very tensors back that :meth:`show` replaced."""
        for name, raw in self._raw.items():
            self._parameters[name].grad = raw
        self._raw = {}


class Snapshot:
    """Copies of parameters, and of a base optimizer's state and groups if one is given."""

    def __init__(self, parameters: Mapping[str, Tensor], base: Optimizer | None = None) -> None:
        self._parameters = parameters
        self.values = {name: value.detach().clone() for name, value in parameters.items()}
        self._base = base
        self._state = {} if base is None else _copied(base.state)
        # Some optimizers count steps, or keep estimates, in their groups.
        self._groups = [] if base is None else [_options(group) for group in base.param_groups]

    def values_in(self, dtype: torch.dtype) -> Tensors:
        """Return the copies of the parameters in a dtype."""
        return {name: value.to(dtype) for name, value in self.values.items()}

    def restore_parameters(self) -> None:
        """Write the parameters back."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.values[name])

    def restore(self) -> None:
        """Write the parameters and the base optimizer's state back."""
        self.restore_parameters()
        if self._base is not None:
            self._base.state.clear()
            self._base.state.update(_copied(self._state))
            for group, options in zip(self._base.param_groups, self._groups, strict=True):
                for name in group.keys() - options.keys() - {"params"}:
                    del group[name]
                group.update(copy.deepcopy(options))


@contextmanager
def undone_on_error(snapshot: Snapshot) -> Iterator[None]:
    """Restore the snapshot if the body raises, so that a failed step changes nothing."""
    try:
        yield
    except BaseException:
        snapshot.restore()
        raise


@contextmanager
def versions_kept(parameters: Mapping[str, Tensor]) -> Iterator[None]:
    """Keep version counters, so that graphs which saved the parameters stay valid.

    Their values must be back at the end.
    """
    with ExitStack() as stack:
        for parameter in parameters.values():
            stack.enter_context(torch.autograd._unsafe_preserve_version_counter(parameter))
        yield


def _copied(state: Mapping[Any, Any]) -> dict[Any, Any]:
    # The keys are the parameters themselves and must not be copied.
    return {
        parameter: {name: _copy(entry) for name, entry in value.items()}
        if isinstance(value, dict)
        else copy.deepcopy(value)
        for parameter, value in state.items()
    }


def _copy(value: Any) -> Any:
    # Quicker than a deep copy, and most of what optimizers keep are tensors.
    return value.detach().clone() if type(value) is Tensor else copy.deepcopy(value)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in group.items() if name != "params"})


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient
