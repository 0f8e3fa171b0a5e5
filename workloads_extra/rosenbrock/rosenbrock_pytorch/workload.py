"""The functions of the plane in PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workloads_extra.pytorch_workload import PytorchWorkload
from workloads_extra.rosenbrock.workload import (
    BaseAckleyWorkload,
    BaseGoldsteinPriceWorkload,
    BaseRosenbrockTwoLayersWorkload,
    BaseRosenbrockWorkload,
)


class _Layer(nn.Module):
    """Holds the parameters u of one layer.

    Args:
        size: how many.
    """

    def __init__(self, size: int):
        super().__init__()
        self.u = nn.Parameter(torch.zeros(size))


class _Plane(nn.Module):
    """Evaluates a function at the parameters of its layers.

    Args:
        function: as in `workloads_extra.rosenbrock.functions`.
        sizes: number of parameters of every layer.
    """

    def __init__(self, function: Callable[[Any, Any, list[Any]], Any], sizes: dict[str, int]):
        super().__init__()
        self._function = function
        for layer, size in sizes.items():
            self.add_module(layer, _Layer(size))

    def forward(self, inputs: Tensor) -> Tensor:
        """[batch, constants] to [batch, outputs]."""
        return self._function(torch, inputs, [layer.u for layer in self.children()])


class _PlanePytorchWorkload(PytorchWorkload):
    """Evaluates ``function`` at the parameters."""

    def _make_model(self) -> nn.Module:
        """The function with its layers."""
        return _Plane(self.function, {layer: len(point) for layer, point in self.start.items()})


class RosenbrockWorkload(_PlanePytorchWorkload, BaseRosenbrockWorkload):
    """Rosenbrock as one layer."""


class RosenbrockTwoLayersWorkload(_PlanePytorchWorkload, BaseRosenbrockTwoLayersWorkload):
    """Rosenbrock as two layers."""


class AckleyWorkload(_PlanePytorchWorkload, BaseAckleyWorkload):
    """Ackley's function."""


class GoldsteinPriceWorkload(_PlanePytorchWorkload, BaseGoldsteinPriceWorkload):
    """The Goldstein–Price polynomial."""
