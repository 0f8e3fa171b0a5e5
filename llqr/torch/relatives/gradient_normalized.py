"""Newton steps damped by the gradient's norm, on the loss of a given batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llqr import relatives, tensors
from llqr._checks import check_positive
from llqr.curvature import AbstractCurvature, quadratic_model
from llqr.torch.backend import TorchBackend
from llqr.torch.distributed import ProcessGroup
from llqr.torch.evaluation import (
    LossFunction,
    OutputsFunction,
    WeightsFunction,
    working_dtype,
)
from llqr.torch.linearise import linearise
from llqr.torch.passes import named_parameters, without_autocast
from llqr.torch.relatives.packing import map_leaves, pack, unpack
from llqr.torch.reporting import NonFiniteWarning

KEY = "method"


class GradientNormalizedNewton(Optimizer):
    """θ ← θ + lr δ with δ of :class:`llqr.relatives.GradientNormalizedNewton`, on the batch passed to a step.

    Gradient and curvature are computed here from the batch, without dropout, so no backward pass is needed
    before. For the method as published pass the whole data set; on smaller batches each step is accepted or
    not on its own batch.

    Args:
        model: the model, also inside DistributedDataParallel or ``torch.compile``.
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser), both 0-d.
        curvature: C, e.g. ``Hessian()`` or ``GaussNewton(metric=LossHessian())``.
        method: settings.
        lr: share of δ that is taken, > 0; 1 as published.
        outputs_fn: (model, batch) ↦ outputs; default ``model(batch[0])``.
        weights_fn: batch ↦ None, weights of the loss's events, or {name: weights}.
        chunk_size: examples linearised at a time, None for all.
        process_group: processes of data-parallel training.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        *,
        curvature: AbstractCurvature,
        method: relatives.GradientNormalizedNewton | None = None,
        lr: float = 1.0,
        outputs_fn: OutputsFunction | None = None,
        weights_fn: WeightsFunction | None = None,
        chunk_size: int | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        check_positive("lr", lr)
        self.model, self.loss_fn, self.curvature = model, loss_fn, curvature
        self.method = method or relatives.GradientNormalizedNewton()
        self.outputs_fn, self.weights_fn = outputs_fn, weights_fn
        self.chunk_size, self.process_group = chunk_size, process_group
        self.skipped = 0
        super().__init__(self._parameters().values(), {"lr": lr})
        named = self._parameters()
        like = torch.zeros((), dtype=working_dtype(named), device=next(iter(named.values())).device)
        self._method_state: dict[str, Tensor] = self.method.init(TorchBackend(), like)

    @torch.no_grad()
    def step(self, closure: Any = None, *, batch: Any = None) -> None:  # type: ignore[override]
        """Take one step on the batch.

        A loss or gradient that is not finite skips it with a
        :class:`~llqr.torch.reporting.NonFiniteWarning`.

        Args:
            closure: must be None; the loss is evaluated here.
            batch: what ``outputs_fn`` and ``loss_fn`` take.

        Raises:
            ValueError: if there is no batch, or a closure.
        """
        if closure is not None or batch is None:
            raise ValueError(
                "batch must be given and closure must not, got "
                f"{'no batch' if batch is None else 'a closure'}; call step(batch=batch)"
            )
        named, backend = self._parameters(), TorchBackend()
        device = next(iter(named.values())).device
        with torch.enable_grad():
            problem = linearise(
                self.model,
                self.loss_fn,
                batch,
                curvature=self.curvature,
                outputs_fn=self.outputs_fn,
                weights_fn=self.weights_fn,
                chunk_size=self.chunk_size,
                parameters=named,
                process_group=self.process_group,
            )
        with without_autocast(device):
            model = quadratic_model(self.curvature, problem)
            if not bool(tensors.all_finite(backend, model.gradient)):
                self.skipped += 1
                warnings.warn(
                    f"the gradient is not finite, so this step was skipped ({self.skipped} skipped so "
                    "far): parameters and state stay as they were; check the batch and the loss for NaN",
                    NonFiniteWarning,
                    stacklevel=2,
                )
                return
            state = map_leaves(lambda value: value.to(device), self._method_state)
            step, self._method_state = self.method.update(backend, state, model)
        rate = self.param_groups[0]["lr"]
        for name, parameter in named.items():
            parameter.copy_(parameter.to(step[name].dtype) + rate * step[name])

    def counters(self) -> dict[str, float]:
        """Return γ, steps, trials of γ, curvature products, steps without an accepted γ, and skipped ones."""
        return {k: v.item() for k, v in self._method_state.items()} | {"skipped": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Return groups, γ and counters."""
        packed = {"state": pack(self._method_state), "skipped": self.skipped}
        return {**super().state_dict(), KEY: packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned.

        Raises:
            ValueError: if it is not a state of this optimizer; nothing has changed then.
        """
        own = state_dict.get(KEY)
        if not isinstance(own, Mapping):
            raise ValueError(
                f"state_dict must hold the key {KEY!r}, got {sorted(state_dict)}; pass what "
                f"{type(self).__name__}.state_dict() returned"
            )
        loaded = unpack(own["state"], self._method_state)
        super().load_state_dict({k: v for k, v in state_dict.items() if k != KEY})
        self._method_state, self.skipped = loaded, own["skipped"]

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self._parameters().values())
        return f"{self.method!r} with {self.curvature!r} on {count} parameters"

    def _parameters(self) -> dict[str, Tensor]:
        return {k: v for k, v in named_parameters(self.model).items() if v.requires_grad}
