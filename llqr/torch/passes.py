"""How a model is run for curvature: without dropout, differentiable twice, and leaving no trace.

What each restriction is for:

* inference mode: no dropout. Layers with running statistics keep their mode, so that in training the
  curvature is that of the function which is trained: BatchNorm normalises by the curvature batch;
* layers with linear pullbacks (:mod:`llqr.torch.linear_pullbacks`), quicker to differentiate again;
* the mathematical attention kernel and the plain LSTM and GRU: fused ones lack a second derivative;
* no autocast: products stay linear to working precision;
* copies of the buffers and a forked random state: the training run must not notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from llqr.torch.distributed import world_size
from llqr.torch.linear_pullbacks import LinearPullbacks

_COMPILED = "_orig_mod"
_RANDOM_PER_DEVICE = ("cuda", "xpu")
_LOCAL_NORMS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
"""Layers with running statistics that ask no other process."""


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside any nesting of DistributedDataParallel, DataParallel and compile."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif _COMPILED in model._modules:
            model = model._modules[_COMPILED]  # type: ignore[assignment]
        else:
            return model


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters by name; tied ones once, names the same whether compiled or not."""
    return {
        name.replace(f"{_COMPILED}.", ""): parameter
        for name, parameter in unwrap(model).named_parameters()
    }


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute in the dtypes given, on a device and on the CPU."""
    with ExitStack() as stack:
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which random numbers, of a device and the CPU, go on as if it had not been."""
    devices = [device.index or 0] if device.type in _RANDOM_PER_DEVICE else []
    return torch.random.fork_rng(devices, device_type=device.type if devices else "cuda")


class CurvaturePass:
    """The state a model is in during curvature passes, entered as often as needed.

    Args:
        model: an unwrapped model.
        device: where its parameters are.

    Attributes:
        pullbacks: of the layers, while the pass is active.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._device = device
        self._entered = False
        modules = list(model.modules())
        self._recurrent = any(isinstance(module, nn.RNNBase) for module in modules)
        self.pullbacks = LinearPullbacks()
        copies: dict[int, torch.Tensor] = {}  # a buffer of two modules stays one buffer
        # (where, under which key, what to put there); found once, since every product enters the pass.
        self._swaps: list[tuple[dict[str, Any], str, Any]] = [
            (module._buffers, name, copies.setdefault(id(buffer), buffer.detach().clone()))
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        for module in modules:
            self._swaps.extend(
                (module.__dict__, key, value) for key, value in self._changes(module)
            )

    @contextmanager
    def active(self) -> Iterator[None]:
        """Put the model into that state and back, also after an exception; nothing to do inside of itself."""
        if self._entered:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(random_state_kept(self._device))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(without_autocast(self._device))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self._recurrent:
                # Their own flags() would set the other flags as well, to defaults that may warn.
                for kernels in (torch.backends.cudnn, torch.backends.mkldnn):
                    stack.callback(setattr, kernels, "enabled", kernels.enabled)
                    kernels.enabled = False
            for values, key, value in self._swaps:
                _swap(stack, values, key, value)
            self._entered = True
            stack.callback(setattr, self, "_entered", False)
            yield

    def _changes(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        """Yield the attributes of a module that differ during the pass, and what they are then."""
        own = module.__dict__
        # The flag is set directly: some modules override train() and fuse weights there.
        if own.get("training") and not (tracks_statistics(module) and keeps_mode(module)):
            yield "training", False
        # Compiled code has no second derivative, so compiled submodules run eagerly.
        if own.get("_compiled_call_impl") is not None:
            yield "_compiled_call_impl", None
        if "forward" not in own:
            forward = self.pullbacks.forward_of(module)
            if forward is not None:
                yield "forward", forward
        elif _COMPILED in module._modules:
            yield "forward", module._modules[_COMPILED]
        # A sparse gradient cannot be differentiated again.
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse:
            yield "sparse", False


def tracks_statistics(module: nn.Module) -> bool:
    """Does a layer normalise by other statistics in training than afterwards."""
    return getattr(module, "running_mean", None) is not None


def keeps_mode(module: nn.Module) -> bool:
    """Does a layer with running statistics normalise in the pass as it does in its mode."""
    # Others may ask all processes (SyncBatchNorm), which can block, or has no second derivative.
    return world_size() == 1 or type(module) in _LOCAL_NORMS


def _swap(stack: ExitStack, values: dict[str, Any], key: str, value: Any) -> None:
    if key in values:
        stack.callback(values.__setitem__, key, values[key])
    else:
        stack.callback(values.pop, key, None)
    values[key] = value
