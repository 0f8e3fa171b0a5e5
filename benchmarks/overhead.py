"""What step sizes solved for cost beside the base optimizer, refreshes spread over the steps between.

The recipe is that of the self-tuning submission: at most 32 groups of parameters with two directions each,
the curvature batch and the longest interval as :mod:`llqr.algoperf.planning` chooses them. In one run,
interleaved: the gradient of the batch, and the updates of Adam, between refreshes, with one, and in the
annealed part, each timed alone, since they differ by less than gradients do from one to the next. Ratios are
those of gradient and update to gradient and Adam's. "Amortised" is the mean step while step sizes are solved
for, "over a run" that of a whole one, whose larger part is annealed (:mod:`llqr.annealing`). The longest
interval counts; at the beginning of a run intervals are shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import llqr.torch
from benchmarks import timing
from benchmarks.torch_case import TorchCase
from llqr.algoperf.planning import make_plan
from llqr.algoperf.recipes import LONGEST_LIMIT, SHORTEST_LIMIT, Recipe
from llqr.annealing import Annealing
from llqr.divergences import Categorical

BATCHES = {"transformer": (256, 1024, 4096), "resnet18": (64, 256)}
"""Examples per step; a transformer's example has one event, its last token."""


def overhead(network: str, batch: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Return one row: seconds of a step of Adam, and the others as ratios to it."""
    plain = TorchCase(network, batch, device)
    names = [name for name, _ in plain.model.named_parameters()]
    recipe = Recipe()
    products = recipe.products(names)
    inputs, targets = plain.batch
    plan = make_plan(
        examples=batch,
        output_shape=tuple(plain.model(inputs).shape),
        event_axes=1,
        example_bytes=4 * (inputs[0].numel() + 1),
        products=products,
    )
    longest = plan.interval(recipe.refresh_share, SHORTEST_LIMIT, LONGEST_LIMIT)
    config = recipe.config(names, Categorical(), plan)
    piece = (inputs[: plan.examples], targets[: plan.examples])

    def adam(case: TorchCase) -> torch.optim.Optimizer:
        return torch.optim.Adam(case.model.parameters(), lr=1e-3, betas=(0.9, 0.99))

    def backward(case: TorchCase) -> Callable[[], None]:
        def run() -> None:
            for parameter in case.model.parameters():
                parameter.grad = None
            case.loss(case.model(case.batch[0]), case.batch).backward()
            case.wait()

        return run

    def finished(case: TorchCase, step: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            step()
            case.wait()

        return run

    def solved(interval: int, **others: Any) -> tuple[TorchCase, Callable[[], Any]]:
        case = TorchCase(network, batch, device)
        settings = replace(config, update_interval=interval, **others)
        optimizer = llqr.torch.LLQR(adam(case), case.model, case.loss, settings)
        return case, lambda: optimizer.step(batch=piece)

    # Annealed from the second step on; the first, which is not measured, makes the only refresh.
    annealing = Annealing(total_steps=5)
    updates = {
        "adam": (plain, adam(plain).step),
        "refresh": solved(1),
        "between": solved(10**9),
        "annealed": solved(10**9, annealing=annealing),
    }
    taken = timing.seconds(
        {"gradient": backward(plain)}
        | {name: finished(case, step) for name, (case, step) in updates.items()},
        rounds,
        prepare={name: backward(case) for name, (case, _) in updates.items()},
    )
    whole = taken["gradient"] + taken["adam"]
    between, refresh, annealed = (
        (taken["gradient"] + taken[name]) / whole for name in ("between", "refresh", "annealed")
    )
    amortised = between + (refresh - between) / longest
    return [
        {
            "network": network,
            "batch": batch,
            "curvature batch": plan.examples,
            "directions": products,
            "gradient, ms": 1e3 * taken["gradient"],
            "Adam, ms": 1e3 * taken["adam"],
            "between refreshes": between,
            "with a refresh": refresh,
            "longest interval": longest,
            "amortised": amortised,
            "as planned": 1.0 + plan.cost / longest,
            "annealed": annealed,
            "over a run": annealing.solved * amortised + (1.0 - annealing.solved) * annealed,
        }
    ]
