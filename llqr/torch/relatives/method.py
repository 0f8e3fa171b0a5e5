"""Any method of :mod:`llqr.relatives` as a ``torch.optim`` optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from llqr._checks import check_not_negative
from llqr.relatives.base import AbstractMethod
from llqr.torch.backend import TorchBackend
from llqr.torch.evaluation import working_dtype
from llqr.torch.gradients import non_finite_names, training_gradient
from llqr.torch.passes import without_autocast
from llqr.torch.relatives.packing import map_leaves, pack, unpack
from llqr.torch.reporting import NonFiniteWarning, skipped_step

KEY = "method"
"""Where the method's state stands beside ``"state"`` and ``"param_groups"``."""


class MethodOptimizer(Optimizer):
    """θ ← (1 − lr · weight_decay) θ − step of a method.

    A step whose gradient is not finite is skipped with a :class:`~llqr.torch.reporting.NonFiniteWarning` and
    counted in ``skipped``. Parameters without a gradient count as zero and stay. Several groups may have
    learning rates of their own; the method sees them all at once.

    Args:
        params: tensors, (name, tensor) pairs as ``named_parameters()`` gives them, or groups of either. Names
            matter to structures that group parameters by layer, and for agreement with JAX.
        method: the method.
        lr: learning rate ≥ 0.
        weight_decay: decoupled, ≥ 0.

    Raises:
        ValueError: if a setting is out of range or parameters lie on several devices.
        TypeError: for an argument of the wrong kind.
    """

    def __init__(
        self,
        params: Iterable[Any],
        method: AbstractMethod,
        *,
        lr: float | Tensor,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(method, AbstractMethod):
            raise TypeError(
                f"method must be a method object, got {method!r}; pass e.g. llqr.relatives.LODO()"
            )
        if not isinstance(lr, Tensor):
            check_not_negative("lr", lr, 0.1)
        check_not_negative("weight_decay", weight_decay)
        self.method = method
        self.skipped = 0
        self._method_state: Any = None
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        named = self._named()
        self._dtype = working_dtype(named)
        like = {
            name: torch.zeros_like(parameter, dtype=self._dtype)
            for name, parameter in named.items()
        }
        devices = sorted({str(value.device) for value in like.values()})
        if len(devices) > 1:
            raise ValueError(
                f"parameters must lie on one device, got {', '.join(devices)}; give each part an "
                "optimizer of its own"
            )
        with torch.no_grad():
            self._method_state = method.init(TorchBackend(), like)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only while the optimizer is constructed, as the state covers all parameters.

        Raises:
            ValueError: afterwards, or if a name occurs twice.
        """
        if self._method_state is not None:
            raise ValueError(
                f"param_group must be given at construction to {type(self).__name__}, whose state "
                "covers all parameters, got one later; make a new optimizer"
            )
        members = param_group["params"]
        members = [members] if isinstance(members, Tensor) else list(members)
        known = {name for group in self.param_groups for name in group["names"]}
        names = [
            member[0] if isinstance(member, tuple) else f"parameter_{len(known) + index:05d}"
            for index, member in enumerate(members)
        ]
        if len({*names, *known}) < len(names) + len(known):
            raise ValueError(f"names of parameters must differ, got {names}; rename one")
        tensors = [member[1] if isinstance(member, tuple) else member for member in members]
        super().add_param_group({**param_group, "params": tensors, "names": names})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step.

        Args:
            closure: evaluates the loss and its gradient first, and returns the loss.

        Returns:
            What the closure returned, None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        named = self._named()
        bad = non_finite_names(named)
        if bad:
            self.skipped += 1
            warnings.warn(
                skipped_step(bad, self.skipped, "parameters and state"),
                NonFiniteWarning,
                stacklevel=2,
            )
            return loss
        self._follow(next(iter(named.values())).device)
        rates = {name: group["lr"] for group in self.param_groups for name in group["names"]}
        gradient = training_gradient(named, self._dtype)
        with without_autocast(next(iter(named.values())).device):
            steps, self._method_state = self.method.update(
                TorchBackend(), self._method_state, gradient, rates
            )
        for group in self.param_groups:
            for name, parameter in zip(group["names"], group["params"], strict=True):
                if parameter.grad is not None:
                    kept = 1.0 - group["lr"] * group["weight_decay"]
                    parameter.copy_(kept * parameter.to(self._dtype) - steps[name])
        return loss

    def method_state(self) -> Any:
        """Return the method's state: nested dicts and tuples of tensors, not copied."""
        return self._method_state

    def state_dict(self) -> dict[str, Any]:
        """Return groups, the method's state as flat tensors, and the count of skipped steps."""
        packed = {"state": pack(self._method_state), "skipped": self.skipped}
        return {**super().state_dict(), KEY: packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            ValueError: if it belongs to another method, configuration or model; nothing has changed then.
        """
        if KEY not in state_dict:
            raise ValueError(
                f"state_dict must hold the key {KEY!r}, got {sorted(state_dict)}; pass what "
                f"{type(self).__name__}.state_dict() returned"
            )
        loaded = unpack(state_dict[KEY]["state"], self._method_state)
        super().load_state_dict({k: v for k, v in state_dict.items() if k != KEY})
        self._method_state = loaded
        self.skipped = state_dict[KEY]["skipped"]

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and deepcopy keep: all but hooks and what schedulers patch in."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name != "step" and not name.startswith("_optimizer_")
        }

    def __repr__(self) -> str:
        shapes = {name: tuple(value.shape) for name, value in self._named().items()}
        size = torch.empty((), dtype=self._dtype).element_size()
        rates = ", ".join(f"{float(group['lr']):g}" for group in self.param_groups)
        return f"{type(self).__name__}(lr={rates}: {self.method.describe(shapes, size)})"

    def _named(self) -> dict[str, Tensor]:
        return {
            name: parameter
            for group in self.param_groups
            for name, parameter in zip(group["names"], group["params"], strict=True)
        }

    def _follow(self, device: torch.device) -> None:
        """Move the state to where the parameters have been moved."""

        def moved(value: Tensor) -> Tensor:
            return value.to(device)

        self._method_state = map_leaves(moved, self._method_state)
