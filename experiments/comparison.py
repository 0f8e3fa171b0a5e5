"""Does what is missing of a comparison, and can be stopped and started again at any instant."""

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from experiments import records
from experiments.engines.base import Engine
from experiments.errors import ExperimentError
from experiments.plan import TrialSpec
from experiments.progress import Progress
from experiments.records import Record
from workloads_extra.runner.storage import write_json

LOCK = ".lock"
PLAN = "plan.json"
LOCK_PATIENCE = 30.0
"""Seconds to wait for the processes of a killed start to be gone."""


@dataclass(frozen=True)
class State:
    """What there is of a plan.

    Attributes:
        done: records of trials that are over.
        todo: trials to run.
        notes: a sentence on every record that cannot be used.
    """

    done: list[Record]
    todo: list[TrialSpec]
    notes: list[str]


def inspect(specs: Sequence[TrialSpec], root: Path, *, retry_failed: bool = False) -> State:
    """Look which trials are over.

    Args:
        specs: the plan.
        root: folder of the comparison.
        retry_failed: count failed trials as not run.

    Returns:
        What is done and what is to do.
    """
    done, todo, notes = [], [], []
    for spec in specs:
        try:
            record = records.load(spec, root)
        except ExperimentError as error:
            notes.append(f"{error} (it is repeated)")
            todo.append(spec)
            continue
        if record is None and records.path_of(spec, root).exists():
            notes.append(
                f"{records.path_of(spec, root)} has other settings; that trial is repeated"
            )
        if record is None or (record.failed and retry_failed):
            todo.append(spec)
        else:
            done.append(record)
    return State(done, todo, notes)


@contextmanager
def claim(root: Path) -> Iterator[int]:
    """Hold a comparison's folder for this process and the trials it starts.

    The lock goes with the last of them, so a killed start cannot disturb the one that follows it.

    Args:
        root: folder of the comparison.

    Yields:
        File descriptor that trials have to keep open.

    Raises:
        ExperimentError: if somebody else holds it.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + LOCK_PATIENCE
        while not _lock(descriptor):
            if time.monotonic() > until:
                raise ExperimentError(f"another comparison is running in {root}; wait for its end")
            time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def complete(
    specs: Sequence[TrialSpec],
    root: Path,
    engine: Engine,
    *,
    retry_failed: bool = False,
    stream: TextIO | None = None,
) -> list[Record]:
    """Run what is missing.

    Args:
        specs: the plan.
        root: folder of the comparison, held by :func:`claim`.
        engine: that runs trials.
        retry_failed: run failed trials again.
        stream: where progress is shown; None for nowhere.

    Returns:
        Records of all trials, in the plan's order.
    """
    state = inspect(specs, root, retry_failed=retry_failed)
    if stream is not None:
        print(*state.notes, sep="\n", end="\n" if state.notes else "", file=stream)
    write_json(root / PLAN, {"trials": [asdict(spec) for spec in specs]})
    if state.todo:
        progress = Progress(state.todo, state.done, engine.workers, stream)
        try:
            engine.run(state.todo, root, progress)
        finally:
            progress.close()
        if stream is not None:
            print(f"{progress.outside():.1%} of the workers' time outside trials", file=stream)
    return inspect(specs, root).done
