"""What each process of the data-parallel tests runs; importable, so that processes can be spawned."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

import llqr.torch
from llqr.config import configure
from tests.torch.training import batches, loss_fn, network, wrap

STEPS = 50

# Well damped, so that rounding is not amplified over the steps and single precision can be compared.
CONFIGS: dict[str, dict[str, Any]] = {
    "diagonal": {
        "structure": "diagonal",
        "inner_solver": "momentum",
        "solver_options": {"steps": 5, "learning_rate": 0.1},
        "chunk_size": 5,
    },
    "kronecker": {"structure": "kronecker", "damping": 0.5},
    "update": {
        "structure": "span",
        "inner_solver": "direct",
        "solver_options": {"relative_ridge": 1.0},
        "damping": 1.0,
        "apply_to": "update",
    },
    "acceptance": {"structure": "diagonal", "damping": "gradient_norm"},
}


def run(name: str, dtype: torch.dtype, rank: int, processes: int) -> dict[str, Any]:
    """Train on this process's half of every batch, or on all of it; return all that matters."""
    settings = {
        "inner_solver": "conjugate_gradient",
        "solver_options": {"steps": 3},
        "damping": 0.1,
        "update_interval": 12,
        "ema_decay": 0.5,
    }
    config = configure(**{**settings, **CONFIGS[name]})
    model = network(dtype)
    model[2].p = 0.0
    if processes > 1:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), config)
    data = batches(dtype, size=16)
    for _ in range(STEPS):
        x, y = next(data)
        size = 16 // processes
        own = slice(rank * size, (rank + 1) * size)
        batch = (x[own], y[own])
        optimizer.zero_grad()
        loss_fn(model(batch[0]), batch).backward()
        optimizer.step(batch=batch)
    return {
        "parameters": [p.detach().clone() for p in model.parameters()],
        "factors": optimizer.state_dict()["llqr"]["factors"],
        "counters": optimizer.counters(),
    }


def failure(rank: int) -> list[str]:
    """Return how a fit ends whose batch is empty, or whose loss fails, in the second process only."""

    def failing_loss(outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        if rank == 1:
            raise KeyError("from the loss")
        return loss_fn(outputs, batch)

    messages = []
    x, y = next(batches())
    for loss, size in ((loss_fn, 0 if rank == 1 else 16), (failing_loss, 16)):
        model = torch.nn.parallel.DistributedDataParallel(network())
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = llqr.torch.LLQR(base, model, loss, configure(curvature="fisher"))
        loss_fn(model(x), (x, y)).backward()
        try:
            optimizer.step(batch=(x[:size], y[:size]))
        except (ValueError, KeyError, RuntimeError) as error:
            messages.append(f"{type(error).__name__}: {error}")
    return messages


def process(rank: int, processes: int, folder: str) -> None:
    """Run every configuration in a gloo group, and write the results of this rank."""
    torch.set_num_threads(1)
    # Both processes are on this machine, whatever its network.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        results: dict[Any, Any] = {
            (name, str(dtype)): run(name, dtype, rank, processes)
            for name in CONFIGS
            for dtype in (torch.float32, torch.float64)
        }
        results["failure"] = failure(rank)
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
