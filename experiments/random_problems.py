"""Random small problems: does training without a learning rate ever diverge?

A problem is drawn whole from its seed: depth, width, activation, normalisation, loss, numbers of inputs,
outputs and examples, batch size, and the scales of inputs, targets and initial weights over decades. It is
trained with :func:`llqr.presets.step_sizes` around Adam, nothing set by hand, or by Adam alone. It has
*diverged* if its loss on all data (BatchNorm in training mode) ends above 1.05 times the initial one or is
not finite.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llqr.presets import step_sizes
from llqr.torch import LLQR
from llqr.torch.reporting import NonFiniteWarning

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}
LIKELIHOODS = {
    "softmax": "categorical",
    "sigmoid": "bernoulli",
    "squared": "gaussian",
    "absolute": "laplace",
}
TOLERANCE = 1.05
METHODS = {
    "annealed": "step sizes, in a run whose length is known",
    "endless": "step sizes, in a run whose length is not",
    "adam": "Adam with a learning rate",
}
"""By what a problem is trained."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a seed draws.

    Attributes:
        seed: of everything.
        depth: hidden layers, 0 to 4.
        width: units of a hidden layer, 2 to 63.
        inputs: 1 to 19.
        outputs: 1 to 10.
        loss: a name of :data:`LIKELIHOODS`.
        normalisation: ``"none"``, ``"layer"`` or ``"batch"``.
        activation: a name of :data:`ACTIVATIONS`.
        examples: 8 to 1023.
        batch_size: 4 to 511, at most ``examples``.
        input_scale: 0.01 to 100.
        target_scale: 0.01 to 100; for the squared and absolute loss.
        weight_scale: factor on the framework's initial weights, 0.1 to 10.
    """

    seed: int
    depth: int
    width: int
    inputs: int
    outputs: int
    loss: str
    normalisation: str
    activation: str
    examples: int
    batch_size: int
    input_scale: float
    target_scale: float
    weight_scale: float


def draw(seed: int) -> Problem:
    """Return the problem of a seed."""
    rng = np.random.default_rng(seed)
    loss = str(rng.choice(list(LIKELIHOODS)))
    examples = int(2 ** rng.uniform(3, 10))
    return Problem(
        seed=seed,
        depth=int(rng.integers(0, 5)),
        width=int(2 ** rng.uniform(1, 6)),
        inputs=int(rng.integers(1, 20)),
        outputs=int(rng.integers(2 if loss == "softmax" else 1, 11)),
        loss=loss,
        normalisation=str(rng.choice(["none", "layer", "batch"])),
        activation=str(rng.choice(list(ACTIVATIONS))),
        examples=examples,
        batch_size=min(int(2 ** rng.uniform(2, 9)), examples),
        input_scale=float(10 ** rng.uniform(-2, 2)),
        target_scale=float(10 ** rng.uniform(-2, 2)),
        weight_scale=float(10 ** rng.uniform(-1, 1)),
    )


def train(
    problem: Problem, steps: int, method: str = "annealed", learning_rate: float = 1e-3
) -> dict[str, Any]:
    """Train a problem and return its record.

    Args:
        problem: what to train.
        steps: training steps.
        method: a name of :data:`METHODS`.
        learning_rate: of Adam; step sizes have none.

    Returns:
        The problem's fields, method and steps, the losses ``first`` and ``last``, the optimizer's counters if
        it has some, and ``diverged``.

    Raises:
        ValueError: for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    torch.manual_seed(problem.seed)
    rng = np.random.default_rng([problem.seed, 1])
    model, data, loss = _network(problem), _data(problem, rng), _loss(problem)
    if method == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    else:
        optimizer = LLQR(
            torch.optim.Adam(model.parameters(), betas=(0.9, 0.99)),
            model,
            loss,
            step_sizes(
                LIKELIHOODS[problem.loss], total_steps=steps if method == "annealed" else None
            ),
        )

    def on_everything() -> float:
        with torch.no_grad():
            return float(loss(model(data[0]), data))

    model.train()
    first = on_everything()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonFiniteWarning)  # counted below
        for _ in range(steps):
            chosen = torch.from_numpy(
                rng.choice(problem.examples, problem.batch_size, replace=False)
            )
            batch = (data[0][chosen], data[1][chosen])
            optimizer.zero_grad()
            loss(model(batch[0]), batch).backward()
            if isinstance(optimizer, LLQR):
                optimizer.step(batch=batch)
            else:
                optimizer.step()
    last = on_everything()
    diverged = not (math.isfinite(last) and last <= TOLERANCE * first)
    return {
        **asdict(problem),
        "method": method,
        "learning_rate": learning_rate if method == "adam" else None,
        "steps": steps,
        "first": first,
        "last": last,
        **(optimizer.counters() if isinstance(optimizer, LLQR) else {}),
        "diverged": diverged,
    }


def _network(problem: Problem) -> nn.Module:
    layers: list[nn.Module] = []
    size = problem.inputs
    for _ in range(problem.depth):
        layers.append(nn.Linear(size, problem.width))
        if problem.normalisation == "layer":
            layers.append(nn.LayerNorm(problem.width))
        if problem.normalisation == "batch":
            layers.append(nn.BatchNorm1d(problem.width))
        layers.append(ACTIVATIONS[problem.activation]())
        size = problem.width
    layers.append(nn.Linear(size, problem.outputs))
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(problem.weight_scale)
    return nn.Sequential(*layers)


def _data(problem: Problem, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of a noisy random teacher."""
    x = rng.standard_normal((problem.examples, problem.inputs))
    taught = np.tanh(x @ rng.standard_normal((problem.inputs, problem.outputs)))
    taught += 0.1 * rng.standard_normal(taught.shape)
    if problem.loss == "softmax":
        y = torch.from_numpy(taught.argmax(axis=1))
    elif problem.loss == "sigmoid":
        y = torch.from_numpy(taught > 0.0).float()
    else:
        y = torch.from_numpy(problem.target_scale * taught).float()
    return torch.from_numpy(problem.input_scale * x).float(), y


def _loss(problem: Problem) -> Callable[[Tensor, Any], Tensor]:
    functions: dict[str, Callable[..., Tensor]] = {
        "softmax": nn.functional.cross_entropy,
        "sigmoid": nn.functional.binary_cross_entropy_with_logits,
        "squared": nn.functional.mse_loss,
        "absolute": nn.functional.l1_loss,
    }
    return lambda outputs, batch: functions[problem.loss](outputs, batch[1])
