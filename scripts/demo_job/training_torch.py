"""Training in torch: an ordinary loop around an ordinary optimizer, or around LLQR."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import llqr.torch
from scripts.demo_job import data
from scripts.demo_job.methods import hidden_name, learning_rate, llqr_config
from scripts.demo_job.tasks import Task, initial_arrays

Batch = tuple[Tensor, Tensor]


class Network(nn.Module):
    """A tanh network with linear output."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in itertools.pairwise(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [batch, out] for inputs [batch, in]."""
        return self.with_hidden(x)[0]

    def with_hidden(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the outputs and the activations of the hidden layers."""
        hidden = {}
        for index, layer in enumerate(self.layers[:-1]):
            x = hidden[hidden_name(index)] = torch.tanh(layer(x))
        return self.layers[-1](x), hidden


class Plane(nn.Module):
    """Rosenbrock's function as residuals of a point: ½ ‖r‖² = (1 − a)² + 100 (b − a²)²."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return r [1, 2]; the input has no influence."""
        a, b = self.point
        return torch.stack([2**0.5 * (1.0 - a), 200**0.5 * (b - a * a)]).reshape(1, 2)


def build(task: Task, seed: int) -> nn.Module:
    """Return the model with its initial weights."""
    model = Network(task.layers) if task.layers else Plane()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial_arrays(task, seed), strict=True):
            parameter.copy_(torch.from_numpy(value.T.copy()))
    return model


def loss_function(task: Task):
    """Return (outputs, batch) ↦ mean loss."""
    if task.loss == "cross_entropy":
        return lambda outputs, batch: functional.cross_entropy(outputs, batch[1])
    if task.loss == "reconstruction":
        return lambda outputs, batch: (
            functional.binary_cross_entropy_with_logits(outputs, batch[1], reduction="sum")
            / len(outputs)
        )
    return lambda outputs, batch: 0.5 * (outputs * outputs).sum()


class TorchTrainer:
    """A model, its optimizer and its data.

    Args:
        task: the task.
        method: ``"base"`` or ``"llqr"``.
        seed: of the initial weights.
    """

    def __init__(self, task: Task, method: str, seed: int) -> None:
        examples = data.load(task)
        self.train = (torch.from_numpy(examples.inputs), torch.from_numpy(examples.targets))
        self.validation = (
            torch.from_numpy(examples.validation_inputs),
            torch.from_numpy(examples.validation_targets),
        )
        self.task, self.method, self.offset = task, method, examples.offset
        self.loss_fn = loss_function(task)
        self.model = build(task, seed)
        self.optimizer = self._optimizer(self.model)

    def _optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        rate = learning_rate(self.task, self.method)
        base = torch.optim.Adam(model.parameters(), lr=rate, betas=self.task.betas)
        if self.method == "base":
            return base
        outputs_fn = None
        if self.task.llqr.hidden_metric:

            def outputs_fn(network: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
                return network.with_hidden(batch[0])

        config = llqr_config(self.task)
        return llqr.torch.LLQR(base, model, self.loss_fn, config, outputs_fn=outputs_fn)

    def warm_up(self) -> None:
        """Take two steps with a copy of the model."""
        original = self.model, self.optimizer
        self.model = copy.deepcopy(self.model)
        self.optimizer = self._optimizer(self.model)
        for _ in range(2):
            self.step(np.arange(self.task.batch_size))
        self.model, self.optimizer = original
        self.evaluate()

    def step(self, indices: np.ndarray) -> None:
        """Take one training step."""
        chosen = torch.from_numpy(indices)
        batch = (self.train[0][chosen], self.train[1][chosen])
        self.optimizer.zero_grad()
        self.loss_fn(self.model(batch[0]), batch).backward()
        if self.method == "base":
            self.optimizer.step()
        else:
            self.optimizer.step(batch=batch)

    def wait(self) -> None:
        """Do nothing: on a CPU steps are done when they return."""

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the training loss, and for the classifier the validation accuracy in [0, 1]."""
        loss = float(self.loss_fn(self.model(self.train[0]), self.train)) - self.offset
        if self.task.loss != "cross_entropy":
            return {"measure": loss}
        guess = self.model(self.validation[0]).argmax(dim=1)
        right = (guess == self.validation[1]).double().mean()
        return {"measure": loss, "validation_accuracy": float(right)}
