"""A small regression of digits-like data to train in the tests of the optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import llqr.torch
from llqr.config import LLQRConfig, configure

Batch = tuple[Tensor, Tensor]

BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.1),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.5, max_iter=3),
}


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 3))
    return nn.Sequential(*layers).to(dtype)


def batches(dtype: torch.dtype = torch.float64, size: int = 16, seed: int = 5) -> Iterator[Batch]:
    """Yield batches of a fixed linear classification with noise, without end."""
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    while True:
        x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
        yield x.to(dtype), (x @ teacher).argmax(1)


def loss_fn(outputs: Tensor, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def fast(**settings: Any) -> LLQRConfig:
    """Return a configuration whose fits are few products and change U clearly."""
    defaults: dict[str, Any] = {
        "inner_solver": "conjugate_gradient",
        "solver_options": {"steps": 3},
        "damping": 0.1,
        "update_interval": 3,
        "ema_decay": 0.5,
    }
    return configure(**{**defaults, **settings})


def wrap(
    model: nn.Module, base: Optimizer, config: LLQRConfig | None = None, **options: Any
) -> Any:
    return llqr.torch.LLQR(base, model, loss_fn, config or fast(), **options)


def train(model: nn.Module, optimizer: Any, data: Iterator[Batch], steps: int) -> None:
    """Take steps; a closure for LBFGS, plain steps otherwise, as users write them."""
    lbfgs = isinstance(getattr(optimizer, "base_optimizer", optimizer), torch.optim.LBFGS)
    wrapped = isinstance(optimizer, llqr.torch.LLQR)
    for _ in range(steps):
        batch = next(data)

        def closure(batch: Batch = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_fn(model(batch[0]), batch)
            loss.backward()
            return loss

        arguments = {"batch": batch} if wrapped else {}
        if lbfgs:
            optimizer.step(closure, **arguments)
        else:
            closure()
            optimizer.step(**arguments)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(x: dict[str, Tensor], y: dict[str, Tensor]) -> bool:
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def everything(optimizer: Any) -> Any:
    """Return a deep copy of all that a step may change, to compare with later."""
    return copy.deepcopy((optimizer.state_dict(), snapshot(optimizer.model)))


def same(x: Any, y: Any) -> bool:
    """Compare nested states exactly; NaN equals NaN."""
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(same(x[key], y[key]) for key in x)
    if isinstance(x, (tuple, list)):
        return len(x) == len(y) and all(same(a, b) for a, b in zip(x, y, strict=True))
    if isinstance(x, Tensor):
        return (
            x.dtype == y.dtype
            and x.shape == y.shape
            and bool(((x == y) | (x.isnan() & y.isnan())).all())
            if x.is_floating_point()
            else torch.equal(x, y)
        )
    return x == y


def backward(model, batch):
    loss_fn(model(batch[0]), batch).backward()
