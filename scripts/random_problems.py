"""How often does self-tuning LLQR diverge? Trains random small problems and counts.

    python scripts/random_problems.py --count 500 --out results/random_problems

Writes ``records.jsonl``, one line per problem, as it goes; started again it goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments import json_lines
from experiments.random_problems import draw, train


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="seeds 0 to COUNT − 1")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if min(options.count, options.steps) < 1:
        parser.error("--count and --steps must be at least 1")
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "records.jsonl"
    records = {
        record["seed"]: record
        for record in json_lines.read(path)
        if record["step"] == options.steps
    }
    for seed in range(options.count):
        if seed in records:
            continue
        # Steps skipped for a gradient that is not finite count as steps of training.
        record = train(draw(seed), options.steps)
        record["step"] += record["skipped"]
        records[seed] = record
        json_lines.append(path, record)
        bad = sum(record["diverged"] for record in records.values())
        print(f"\r{len(records)} of {options.count}, diverged {bad}", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(table([records[seed] for seed in range(options.count)]))


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
