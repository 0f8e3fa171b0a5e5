"""The three benchmarks of a refresh: cost per inner step, peak memory, objective against products."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from benchmarks.cases import make_case
from benchmarks.timing import seconds
from llqr.config import LLQRConfig, configure

STRUCTURES = (
    "scalar",
    "diagonal",
    "kronecker",
    "ekfac",
    "separable_ekfac",
    "low_rank",
    "span",
)
"""Dense is left out: a layer of these networks would take a matrix of 65 000² or more."""
CURVATURES = ("fisher", "newton")
STEPS = {"transformer": (5, 45), "resnet18": (1, 5)}
"""(few, many): the cost of one inner step is the difference divided by many − few."""


def momentum(curvature: str, structure: str, steps: int, **settings: Any) -> LLQRConfig:
    """Return the published inner solver's configuration with a number of steps.

    The solver must take all its steps for the time to count them, whatever the objective does.
    """
    return configure(
        curvature=curvature,
        structure=structure,
        inner_solver="momentum",
        solver_options={"steps": steps, "stop_on_rise": False},
        **settings,
    )


def cost(
    framework: str,
    network: str,
    structures: tuple[str, ...],
    curvatures: tuple[str, ...],
    rounds: int,
    device: str,
) -> list[dict[str, Any]]:
    """Return, per structure and curvature, the cost of one inner step in gradients of the same batch."""
    case = make_case(framework, network, device=device)
    few, many = STEPS[network]
    rows = []
    for curvature in curvatures:
        for structure in structures:
            timed = seconds(
                {
                    "gradient": case.gradient(),
                    "few": case.fit(momentum(curvature, structure, few)),
                    "many": case.fit(momentum(curvature, structure, many)),
                },
                rounds,
            )
            step = (timed["many"] - timed["few"]) / (many - few)
            rows.append(
                {
                    "framework": framework,
                    "network": network,
                    "curvature": curvature,
                    "structure": structure,
                    "gradient_ms": 1e3 * timed["gradient"],
                    "step_in_gradients": step / timed["gradient"],
                    "fixed_in_gradients": (timed["few"] - (few + 1) * step) / timed["gradient"],
                }
            )
    return rows


def memory(
    framework: str, network: str, batch: int, chunks: tuple[int | None, ...], device: str
) -> list[dict[str, Any]]:
    """Return peak memory of a gradient and of a refresh (diagonal), each in a fresh process."""
    gradient = _peak(framework, network, batch, "gradient", "fisher", None, device)
    rows = []
    for curvature in CURVATURES:
        for chunk in chunks:
            refresh = _peak(framework, network, batch, "refresh", curvature, chunk, device)
            rows.append(
                {
                    "framework": framework,
                    "network": network,
                    "batch": batch,
                    "curvature": curvature,
                    "chunk": chunk or "all",
                    "gradient_mib": gradient / 2**20,
                    "refresh_mib": refresh / 2**20,
                    "ratio": refresh / gradient,
                }
            )
    return rows


def _peak(
    framework: str,
    network: str,
    batch: int,
    what: str,
    curvature: str,
    chunk: int | None,
    device: str,
) -> int:
    program = (
        "from benchmarks.cases import make_case; from benchmarks.refresh import momentum; "
        f"case = make_case({framework!r}, {network!r}, {batch}, {device!r}); "
        f"print(case.peak_bytes({what!r}, momentum({curvature!r}, 'diagonal', 1, chunk_size={chunk})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def solvers(framework: str, structures: tuple[str, ...], reduction: str) -> list[dict[str, Any]]:
    """Return the objective reached against products spent, per solver, on the transformer (Fisher).

    The published inner learning rate belongs to the Fisher summed over the batch (``reduction="sum"``).
    """
    case = make_case(framework, "transformer")
    rows = []
    for structure in structures:
        contestants = [("momentum (published)", "momentum", {"steps": 50})]
        contestants += [("adam", "adam", {"steps": 50})]
        contestants += [
            (f"conjugate gradient, {k}", "conjugate_gradient", {"steps": k}) for k in (1, 2, 5, 9)
        ]
        if structure in ("scalar", "span"):
            contestants.append(("direct", "direct", {}))
        for label, solver, options in contestants:
            config = configure(
                curvature="fisher",
                curvature_options={"curvature_reduction": reduction},
                structure=structure,
                inner_solver=solver,
                solver_options=options,
            )
            fit = case.fit(config)().last_fit
            rows.append(
                {
                    "framework": framework,
                    "fisher": reduction,
                    "structure": structure,
                    "solver": label,
                    "products": int(fit.products),
                    "objective_start": float(fit.objective_start),
                    "objective": float(fit.objective),
                    "status": int(fit.status),
                }
            )
    return rows
