"""Which parameters an optimizer preconditions, and whether that is still so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llqr.config import LLQRConfig
from llqr.multiplier import keeps_parameters
from llqr.preconditioner import Preconditioner, PreconditionerState
from llqr.structures import fold_output_first
from llqr.torch import reporting, state
from llqr.torch.backend import TorchBackend
from llqr.torch.evaluation import working_dtype
from llqr.torch.passes import named_parameters

Groups = Sequence[dict[str, Any]]

_SUPPLIED = {"gradient": ("input", "gradient"), "update": ("input", "update", "gradient")}


class Membership:
    """The trainable parameters of the groups, by model name, and their preconditioner.

    Args:
        model: the model, wrapped or not.
        groups: the optimizer's param groups.
        config: settings.

    Raises:
        ValueError: if the model does not name a parameter, parameters lie on several devices, or a
            structure asks for a direction that the mode cannot supply.
    """

    def __init__(self, model: nn.Module, groups: Groups, config: LLQRConfig) -> None:
        self._named: dict[str, Tensor] = dict(named_parameters(model))
        self._signature = _signature(groups)
        taken = _grouped(self._named, groups)
        self.parameters = {
            name: parameter
            for name, parameter in self._named.items()
            if id(parameter) in taken and parameter.requires_grad
        }
        self.preconditioner = Preconditioner(
            TorchBackend(),
            config,
            {name: tuple(parameter.shape) for name, parameter in self.parameters.items()},
            fold=fold_output_first,
        )
        _check_sources(self.preconditioner, config)
        self.dtype = working_dtype(self.parameters)
        self.like = torch.zeros((), dtype=self.dtype, device=_device(self.parameters))

    def init(self) -> PreconditionerState:
        """Return the state before any step."""
        if not keeps_parameters(self.preconditioner.config.multiplier):
            return self.preconditioner.init(dict.fromkeys(self.parameters, self.like))
        return self.preconditioner.init(
            {name: p.detach().to(self.dtype, copy=True) for name, p in self.parameters.items()}
        )

    def carry_over(self, old: Membership, saved: PreconditionerState) -> PreconditionerState:
        """Return the state for these parameters, with the factors of unchanged blocks."""
        return state.carry_over(self.preconditioner, old.preconditioner, saved, self.init())

    def is_current(self, groups: Groups) -> bool:
        """Are the groups' parameters, their dtypes, devices and ``requires_grad`` as they were."""
        return self._signature == _signature(groups)

    def report(self) -> str:
        """Return the table of structures, and what is left alone."""
        return self.preconditioner.report() + reporting.left_alone(self._named, self.parameters)


def check_arguments(
    base_optimizer: Any,
    model: Any,
    loss_fn: Any,
    config: Any,
    outputs_fn: Any,
    weights_fn: Any,
) -> None:
    """Raise unless every argument of the optimizer is of its kind.

    Raises:
        TypeError: naming the argument and the remedy.
    """
    kinds = (
        (
            "base_optimizer",
            base_optimizer,
            Optimizer,
            "torch.optim.SGD(model.parameters(), lr=0.1)",
        ),
        ("model", model, nn.Module, "the torch.nn.Module whose parameters are trained"),
        ("config", config, LLQRConfig, 'llqr.config.configure(curvature="fisher")'),
    )
    for name, value, kind, example in kinds:
        if not isinstance(value, kind):
            raise TypeError(
                f"{name} must be a {kind.__name__}, got {type(value).__name__}; pass e.g. {example}"
            )
    for name, value in (
        ("loss_fn", loss_fn),
        ("outputs_fn", outputs_fn),
        ("weights_fn", weights_fn),
    ):
        if not callable(value) and not (value is None and name != "loss_fn"):
            raise TypeError(f"{name} must be a function, got {type(value).__name__}; see its docs")


def _signature(groups: Groups) -> tuple:
    return tuple(
        (id(parameter), parameter.requires_grad, parameter.dtype, parameter.device)
        for group in groups
        for parameter in group["params"]
    )


def _grouped(named: dict[str, Tensor], groups: Groups) -> set[int]:
    known = {id(parameter) for parameter in named.values()}
    for index, group in enumerate(groups):
        for position, parameter in enumerate(group["params"]):
            if id(parameter) not in known:
                raise ValueError(
                    f"param_groups must hold parameters of the model only, got one of shape "
                    f"{tuple(parameter.shape)} (group {index}, position {position}) that "
                    "model.named_parameters() does not list; pass the model that owns it, or "
                    "optimize it separately"
                )
    return {id(parameter) for group in groups for parameter in group["params"]}


def _device(parameters: dict[str, Tensor]) -> torch.device:
    devices = {str(parameter.device) for parameter in parameters.values()}
    if len(devices) > 1:
        raise ValueError(
            f"parameters must lie on one device, got {', '.join(sorted(devices))}; move the model "
            "to one device, or give each part an optimizer of its own"
        )
    return next(iter(parameters.values())).device


def _check_sources(preconditioner: Preconditioner, config: LLQRConfig) -> None:
    supplied = _SUPPLIED[config.apply_to]
    for name in sorted(preconditioner.sources):
        if name not in supplied:
            remedy = (
                'set apply_to="update"' if name == "update" else f"use one of {', '.join(supplied)}"
            )
            raise ValueError(
                f"directions of a span must be among {', '.join(supplied)} with "
                f"apply_to={config.apply_to!r}, got {name!r}; {remedy}"
            )
