"""Cost, memory and progress of a refresh; what compiling a step costs in JAX.

    python -m benchmarks [cost|memory|solvers|overhead|gram|compilation ...] [--frameworks torch jax]
        [--networks transformer resnet18]

Prints Markdown tables; ``--json FILE`` also writes the rows. Times are medians over interleaved rounds and
reported as ratios to a gradient of the same batch in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import gram, overhead, refresh
from benchmarks.cases import BATCH

PARTS = ("cost", "memory", "solvers", "overhead", "gram", "compilation")
MEMORY_BATCH = {"transformer": 512, "resnet18": 16}


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table; numbers get three significant digits."""
    columns = list(rows[0])

    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(text(row[column]) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def measure(part: str, options: argparse.Namespace) -> Iterable[list[dict[str, Any]]]:
    """Yield the tables of one part."""
    if part == "overhead":  # in torch
        for network in options.networks:
            for batch in overhead.BATCHES[network]:
                yield overhead.overhead(network, batch, options.rounds, options.device)
        return
    if part == "gram":  # in torch; JAX takes all at once, so that the program stays small
        for network in options.networks:
            yield gram.gram(network, BATCH[network], options.rounds, options.device)
        return
    if part == "compilation":
        if "jax" in options.frameworks:
            from benchmarks import compilation

            yield from map(compilation.compilation, compilation.DEPTHS)
        return
    for framework in options.frameworks:
        if part == "solvers":
            for reduction in ("sum", "mean"):
                yield refresh.solvers(
                    framework, ("scalar", "diagonal", "kronecker", "span"), reduction
                )
            continue
        for network in options.networks:
            if part == "cost":
                yield refresh.cost(
                    framework,
                    network,
                    tuple(options.structures),
                    refresh.CURVATURES,
                    options.rounds,
                    options.device,
                )
            else:
                size = MEMORY_BATCH[network]
                chunks = (None, size // 4)
                yield refresh.memory(framework, network, size, chunks, options.device)


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default all")
    parser.add_argument(
        "--frameworks", nargs="+", choices=("torch", "jax"), default=["torch", "jax"]
    )
    parser.add_argument("--networks", nargs="+", choices=tuple(BATCH), default=list(BATCH))
    parser.add_argument(
        "--structures", nargs="+", choices=refresh.STRUCTURES, default=list(refresh.STRUCTURES)
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="torch device; JAX uses its default one")
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; known: {', '.join(PARTS)}")
    versions = {name: version(name) for name in ("numpy", *options.frameworks)}
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    )
    collected: dict[str, list[dict[str, Any]]] = {}
    for part in options.parts or PARTS:
        print(f"\n## {part}\n")
        for rows in measure(part, options):
            collected.setdefault(part, []).extend(rows)
            print(table(rows) + "\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"versions": versions, "rows": collected}, indent=1))


if __name__ == "__main__":
    main()
