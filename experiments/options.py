"""Flags that comparison and search share, and the engine they ask for."""

import argparse
from pathlib import Path

from experiments.engines.base import Engine
from experiments.engines.environment import make_room
from experiments.engines.local import LocalEngine
from experiments.errors import ExperimentError
from experiments.plan import Limits
from experiments.submissions import FRAMEWORKS


def add_trial_flags(parser: argparse.ArgumentParser) -> None:
    """Add what decides how long a trial runs."""
    group = parser.add_argument_group("trials")
    add = group.add_argument
    add(
        "--step-budget",
        type=float,
        default=1.0,
        metavar="X",
        help="end a trial at X times the workload's step hint, 0 for its time limit alone (default 1)",
    )
    add(
        "--time-budget",
        type=float,
        default=1.0,
        metavar="X",
        help="allow X times the workload's submission time, where a machine is slow or busy (default 1)",
    )
    add("--steps", type=int, help="end a trial at this number of steps, whatever the workload")
    add(
        "--evaluations",
        type=int,
        default=50,
        help="evaluations within the step hint, at fixed steps, so that steps to target repeat; "
        "0 evaluates by the clock, as AlgoPerf does (default 50)",
    )
    goal = group.add_mutually_exclusive_group()
    goal.add_argument(
        "--to-test-target",
        action="store_true",
        help="go on after the validation target until the test target is reached, as AlgoPerf does",
    )
    goal.add_argument(
        "--to-the-end",
        action="store_true",
        help="go on whatever is reached, to see where training ends",
    )
    add(
        "--clock",
        choices=("wall", "process"),
        default="wall",
        help="what seconds are: the wall's clock, as AlgoPerf's, or the CPU time of a trial's process, for "
        "CPUs that others use at the same time (default wall)",
    )
    add("--checkpoints", action="store_true", help="let interrupted trials go on where they were")


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add what decides where trials run."""
    group = parser.add_argument_group("engine")
    add = group.add_argument
    add("--engine", choices=("local", "ray"), default="local")
    add("--address", help="of the Ray cluster, e.g. ray://host:10001; a cluster of its own without")
    add("--workers", type=int, help="trials at a time (default: from the cores or the GPUs)")
    add("--threads", type=int, help="of each trial (default: 1, beside GPUs a share of the cores)")
    add("--cpu", action="store_true", help="leave GPUs alone")
    add("--devices-per-trial", type=int, default=1, help="GPUs of each trial (default 1)")
    add("--processes-per-trial", type=int, default=1, help="of PyTorch trials, under torchrun")
    add("--timeout", type=float, help="seconds after which a trial is ended and counts as failed")


def add_record_folders(parser: argparse.ArgumentParser) -> None:
    """Add the folders that records are read from."""
    parser.add_argument(
        "folders", nargs="+", type=folder, help="of comparisons, or of collected records"
    )


def add_framework_flag(parser: argparse.ArgumentParser) -> None:
    """Add the choice of frameworks."""
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))


def limits(options: argparse.Namespace) -> Limits:
    """Return the limits that the flags state."""
    return Limits(
        step_budget=options.step_budget,
        evaluations=options.evaluations,
        steps=options.steps,
        time_budget=options.time_budget,
        to_test_target=options.to_test_target,
        to_the_end=options.to_the_end,
        clock=options.clock,
    )


def make_engine(options: argparse.Namespace, lock: int) -> Engine:
    """Return the engine that the flags ask for.

    Args:
        options: of the command line.
        lock: file descriptor that local trials keep open.

    Returns:
        The engine.

    Raises:
        ExperimentError: for flags that do not go together, or if Ray is not installed.
    """
    if options.timeout is not None and options.timeout <= 0:
        raise ExperimentError(f"--timeout must be positive, got {options.timeout}")
    if options.clock == "process" and not options.cpu:
        raise ExperimentError("--clock process does not see the time of GPUs; it needs --cpu")
    if options.engine == "ray":
        from experiments.engines.ray import RayEngine

        return RayEngine(
            options.address,
            workers=options.workers,
            threads=options.threads,
            devices_per_trial=options.devices_per_trial,
            cpu_only=options.cpu,
            timeout=options.timeout,
        )
    if options.address is not None:
        raise ExperimentError("--address needs --engine ray")
    room = make_room(
        options.workers,
        options.threads,
        devices_per_trial=options.devices_per_trial,
        cpu_only=options.cpu,
    )
    return LocalEngine(room, options.timeout, inherited=(lock,))


def folder(text: str) -> Path:
    """Return a path with the home folder put in."""
    return Path(text).expanduser()
