"""How often does training without a learning rate diverge? Trains random small problems and counts.

    python scripts/random_problems.py --count 500 --out results/random_problems

Writes ``records.jsonl``, one line per problem and method, as it goes; started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments import json_lines
from experiments.random_problems import METHODS, draw, train


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="annealed",
        help="; ".join(f"{name}: {text}" for name, text in METHODS.items()),
    )
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of adam")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if min(options.count, options.steps) < 1 or options.first < 0:
        parser.error("--count and --steps must be at least 1, --first at least 0")
    if not options.learning_rate > 0.0:
        parser.error(f"--learning-rate must be above 0, got {options.learning_rate}")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "records.jsonl"
    rate = options.learning_rate if options.method == "adam" else None
    settings = {"method": options.method, "learning_rate": rate, "steps": options.steps}
    seeds = range(options.first, options.first + options.count)
    records = {
        record["seed"]: record
        for record in json_lines.read(path)
        if record["seed"] in seeds
        and all(record.get(key) == value for key, value in settings.items())
    }
    for seed in seeds:
        if seed in records:
            continue
        record = train(draw(seed), options.steps, options.method, options.learning_rate)
        records[seed] = record
        json_lines.append(path, record)
        bad = sum(record["diverged"] for record in records.values())
        print(f"\r{len(records)} of {options.count}, diverged {bad}", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(table([records[seed] for seed in seeds]))


def table(records: list[dict[str, Any]]) -> str:
    """Return how many problems diverged, by kind, as Markdown."""
    kinds: dict[str, Callable[[dict[str, Any]], bool]] = {
        "all": lambda r: True,
        "batches of 32 or more": lambda r: r["batch_size"] >= 32,
        "batches below 32": lambda r: r["batch_size"] < 32,
        "BatchNorm": lambda r: r["normalisation"] == "batch" and r["depth"] > 0,
        "all data in every batch, no BatchNorm": lambda r: (
            r["batch_size"] == r["examples"] and (r["normalisation"] != "batch" or r["depth"] == 0)
        ),
    }
    lines = ["| problems | number | diverged |", "|---|---|---|"]
    for name, belongs in kinds.items():
        chosen = [record for record in records if belongs(record)]
        bad = sum(record["diverged"] for record in chosen)
        lines.append(f"| {name} | {len(chosen)} | {bad} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
