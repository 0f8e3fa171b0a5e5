"""Multilayer perceptron in PyTorch."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from workloads_extra.mlp import layer_name, mlp_specs
from workloads_extra.parameters import Specs
from workloads_extra.pytorch_workload import PytorchWorkload


class Mlp(nn.Module):
    """Tanh between the layers, linear at the end.

    Args:
        widths: of the input, every hidden layer and the output.
    """

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self._last = len(widths) - 2
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            self.add_module(layer_name(index), nn.Linear(inputs, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """[batch, widths[0]] to [batch, widths[-1]]."""
        hidden = inputs
        for index, layer in enumerate(self.children()):
            hidden = layer(hidden)
            hidden = hidden if index == self._last else torch.tanh(hidden)
        return hidden


class MlpPytorchWorkload(PytorchWorkload):
    """Mixin for workloads that state ``widths``."""

    widths: tuple[int, ...]

    def _parameter_specs(self) -> Specs:
        """A kernel and a bias per layer."""
        return mlp_specs(self.widths)

    def _make_model(self) -> nn.Module:
        """The perceptron."""
        return Mlp(self.widths)
