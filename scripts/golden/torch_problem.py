"""The golden network in torch, kernels kept in the file's layout ([in, out] and HWIO)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import llqr.torch
from golden.file import GoldenFile, same_padding
from llqr.curvature import AbstractCurvature, quadratic_model


class GoldenNet(torch.nn.Module):
    """Layers of the file's architecture; parameter ``layers_i.kernel`` is the file's ``layers_i/kernel``."""

    def __init__(self, golden: GoldenFile) -> None:
        super().__init__()
        self.architecture = golden.architecture
        for name, value in golden.parameters.items():
            layer, _, leaf = name.partition("/")
            if layer not in self._modules:
                self.add_module(layer, torch.nn.Module())
            parameter = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
            self.get_submodule(layer).register_parameter(leaf, parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities [B, classes]."""
        for index, (kind, activation) in enumerate(self.architecture):
            layer = self.get_submodule(f"layers_{index}")
            x = _linear(kind, x, layer.get_parameter("kernel")) + layer.get_parameter("bias")
            x = _activate(activation, x)
        return x


def _linear(kind: str, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    if kind == "conv3x3_stride2_same":
        top, bottom = same_padding(x.shape[1])
        left, right = same_padding(x.shape[2])
        image = torch.nn.functional.pad(x.permute(0, 3, 1, 2), (left, right, top, bottom))
        result = torch.nn.functional.conv2d(image, kernel.permute(3, 2, 0, 1), stride=2)
        return result.permute(0, 2, 3, 1)
    if kind == "flatten_dense":
        x = x.reshape(x.shape[0], -1)
    return x @ kernel


def _activate(name: str, x: torch.Tensor) -> torch.Tensor:
    if name == "tanh":
        return torch.tanh(x)
    if name == "gelu_exact":
        return torch.nn.functional.gelu(x)
    return torch.log_softmax(x, dim=-1)


class TorchProblem:
    """See :class:`golden.recompute.Problem`."""

    def __init__(self, golden: GoldenFile) -> None:
        self.backend = llqr.torch.TorchBackend()
        self.net = GoldenNet(golden)
        self.smoothing = golden.label_smoothing
        self.batch = (
            torch.tensor(golden.x, dtype=torch.float64),
            torch.tensor(golden.y, dtype=torch.long),
        )

    def _loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, batch[1], label_smoothing=self.smoothing)

    def outputs(self) -> np.ndarray:
        """Return the log-probabilities."""
        return self.net(self.batch[0]).detach().numpy()

    def loss(self) -> float:
        """Return the mean cross-entropy."""
        return float(self._loss(self.net(self.batch[0]), self.batch).detach())

    def model(self, curvature: AbstractCurvature) -> Any:
        """Return the quadratic model, parameters renamed to the file's names."""
        problem = llqr.torch.linearise(self.net, self._loss, self.batch, curvature=curvature)
        return _renamed(quadratic_model(curvature, problem))

    def to_framework(self, values: dict[str, np.ndarray]) -> Any:
        """Return torch tensors."""
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def to_numpy(self, values: Any) -> dict[str, np.ndarray]:
        """Return NumPy arrays."""
        return {name: value.detach().numpy() for name, value in values.items()}


def _renamed(model: Any) -> Any:
    """Return the model with ``layers_0/kernel`` for torch's ``layers_0.kernel``."""
    from dataclasses import replace

    def outward(values: Any) -> Any:
        return {name.replace(".", "/"): value for name, value in values.items()}

    def inward(values: Any) -> Any:
        return {name.replace("/", "."): value for name, value in values.items()}

    return replace(
        model,
        gradient=outward(model.gradient),
        curvature_product=lambda v: outward(model.curvature_product(inward(v))),
        gram=None,
        loss_and_gradient=None,
    )


def make_problem(golden: GoldenFile) -> TorchProblem:
    """Return the golden problem in torch."""
    return TorchProblem(golden)
