"""The command line of the main job."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scripts.demo_job import plot, runner, storage, table, tasks
from scripts.demo_job.methods import METHODS
from scripts.demo_job.progress import Progress
from scripts.demo_job.runner import ROOT
from scripts.demo_job.storage import FRAMEWORKS, RunSpec

INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(
        prog="demo.py",
        description="Train on digits and Rosenbrock with Adam alone and with LLQR around it, in torch "
        "and in JAX; report steps and seconds to target. Finished runs are kept: start again to go on.",
    )
    result.add_argument("--tasks", type=_names("tasks", tasks.TASKS), default=list(tasks.TASKS))
    result.add_argument(
        "--frameworks", type=_names("frameworks", FRAMEWORKS), default=list(FRAMEWORKS)
    )
    result.add_argument("--seeds", type=_seeds, default=None, help="comma-separated, default 0,1,2")
    result.add_argument("--out", type=Path, default=None, help="default results/demo")
    result.add_argument("--fresh", action="store_true", help="repeat runs that are there already")
    result.add_argument("--quick", action="store_true", help="small networks, one seed, seconds")
    result.add_argument(
        "--tune",
        action="store_true",
        help="instead of the report, run the base optimizer over its learning rates on other seeds",
    )
    return result


def _names(what: str, known: object) -> object:
    def parse(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in chosen if name not in known]
        if unknown or not chosen:
            raise argparse.ArgumentTypeError(
                f"unknown {what} {', '.join(unknown) or repr(text)}; "
                f"known, to be joined with commas: {', '.join(known)}"
            )
        return list(dict.fromkeys(chosen))

    return parse


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0:
        raise argparse.ArgumentTypeError(
            f"seeds must be integers of at least 0 joined with commas, got {text!r}; try 0,1,2"
        )
    return list(dict.fromkeys(seeds))


def specifications(arguments: argparse.Namespace) -> list[RunSpec]:
    """Return all runs, both methods of a seed next to each other so that they meet the same load."""
    out = arguments.out
    chosen = [tasks.TASKS[name] for name in arguments.tasks]
    if arguments.quick:
        chosen = [tasks.quick(task) for task in chosen]
    seeds = arguments.seeds
    if seeds is None:
        seeds = tasks.TUNING_SEEDS if arguments.tune else tasks.REPORT_SEEDS
        seeds = seeds[:1] if arguments.quick else seeds
    variants = [(task, out, METHODS) for task in chosen]
    if arguments.tune:
        variants = [
            (replace(task, learning_rate=rate), out / f"{rate:g}", METHODS[:1])
            for task in chosen
            for rate in tasks.LEARNING_RATES
        ]
    return [
        RunSpec(task, framework, method, seed, directory)
        for task, directory, methods in variants
        for framework in arguments.frameworks
        for seed in seeds
        for method in methods
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Do what is missing, then report.

    Args:
        argv: the command line, None for the process's own.

    Returns:
        0; 1 if runs failed; 130 if interrupted.
    """
    arguments = parser().parse_args(argv)
    if arguments.out is None:
        name = "demo" + ("-quick" if arguments.quick else "") + ("-tune" if arguments.tune else "")
        arguments.out = ROOT / "results" / name
    out, started = arguments.out, time.monotonic()
    specs = specifications(arguments)
    for directory in {spec.directory for spec in specs}:
        storage.remove_temporary(directory)
    plan = runner.plan(specs, fresh=arguments.fresh)
    for note in plan.notes:
        print(note, file=sys.stderr)
    if plan.finished:
        print(f"{len(plan.finished)} of {len(specs)} runs are there already in {out}")
    if plan.missing:
        status = _work(specs, plan, out)
        if status:
            return status
    results = {spec: storage.load(spec.path).run for spec in specs}
    text = table.render(results)
    storage.write_atomically(out / "table.txt", text + "\n")
    print(f"\n{text}\n")
    if not arguments.tune:
        plot.draw(results, out / "curves.png")
        print(f"curves: {out / 'curves.png'}")
    print(f"runs:   {out}/*.jsonl\n{len(specs)} runs, {time.monotonic() - started:.0f} s")
    return 0


def _work(specs: Sequence[RunSpec], plan: runner.Plan, out: Path) -> int:
    """Do the missing runs and return the exit status."""
    counts = Counter(spec.framework for spec in plan.missing)
    progress = Progress(len(specs), len(plan.finished), dict(counts))
    try:
        runner.execute(plan.missing, progress, out)
    except KeyboardInterrupt:
        progress.close()
        kept = len(runner.plan(specs).finished)
        print(
            f"interrupted: {kept} of {len(specs)} runs are kept; start again to go on",
            file=sys.stderr,
        )
        return INTERRUPTED
    except runner.JobError as error:
        progress.close()
        print(f"{error}\nsee the .log files in {out}; start again to repeat", file=sys.stderr)
        return 1
    progress.close()
    return 0
