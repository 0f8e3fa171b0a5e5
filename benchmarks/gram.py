"""What a Gram matrix of directions costs in torch, taken layer by layer and all at once.

Two random directions per layer, as step sizes per layer would have them. Both ways use one linearisation,
whose making is not measured. The limit by operations counts matrix products: a gradient has three per layer,
and a forward product one in the layer of the direction and one in each behind it, or two in every layer where
it takes all.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

import torch

import llqr.torch
from benchmarks import timing
from benchmarks.torch_case import TorchCase
from llqr.curvature import gauss_newton, quadratic_model
from llqr.directions import Directions, joined
from llqr.divergences import Categorical
from llqr.structures.base import layer_of

PER_LAYER = 2


def gram(network: str, batch: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Return one row: seconds of a gradient, and both ways as ratios to it."""
    case = TorchCase(network, batch, device)
    parameters = dict(case.model.named_parameters())
    curvature = gauss_newton(Categorical(), output_metric=0.01)
    problem = llqr.torch.linearise(case.model, case.loss, case.batch, curvature=curvature)
    model = quadratic_model(curvature, problem)
    groups = [_random(parameters, list(names)) for _, names in groupby(parameters, layer_of)]
    build = model.gram
    assert build is not None
    # Whatever is cached, is now.
    whole, apart = build([joined(groups)]), build(groups)
    error = float((whole - apart).abs().max() / whole.abs().max())
    if not error < 1e-4:
        raise RuntimeError(f"the two Gram matrices must agree, got a relative error of {error}")

    def waiting(function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            function()
            case.wait()

        return run

    def gradient() -> None:
        for parameter in parameters.values():
            parameter.grad = None
        case.loss(case.model(case.batch[0]), case.batch).backward()

    taken = timing.seconds(
        {
            "gradient": waiting(gradient),
            "at once": waiting(lambda: build([joined(groups)])),
            "by layer": waiting(lambda: build(groups)),
        },
        rounds,
    )
    layers, unit = len(groups), taken["gradient"]
    products = PER_LAYER * layers
    return [
        {
            "network": network,
            "batch": batch,
            "directions": products,
            "gradient, ms": 1e3 * unit,
            "at once, gradients": taken["at once"] / unit,
            "by layer, gradients": taken["by layer"] / unit,
            "limit at once": products * 2 / 3,
            "limit by layer": PER_LAYER * (layers + 1) / 2 / 3,
            "at once / by layer": taken["at once"] / taken["by layer"],
        }
    ]


def _random(parameters: dict[str, torch.Tensor], names: list[str]) -> Directions:
    """Return random directions that move the parameters of these names."""
    rows = {
        name: torch.randn(PER_LAYER, *parameters[name].shape, device=parameters[name].device)
        for name in names
    }

    def combine(coefficients: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: torch.tensordot(coefficients, vectors, 1) / vectors.norm()
            for name, vectors in rows.items()
        }

    return Directions(count=PER_LAYER, combine=combine)
