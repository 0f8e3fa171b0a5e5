"""Starts one worker process per framework and follows them to the end."""

from __future__ import annotations

import json
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.demo_job import storage
from scripts.demo_job.progress import Progress
from scripts.demo_job.storage import RunSpec
from scripts.demo_job.worker import THREADS

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """What is there already and what is still to do.

    Attributes:
        finished: runs with a file that fits their settings.
        missing: runs to do.
        notes: one sentence for every file that cannot be used.
    """

    finished: tuple[RunSpec, ...]
    missing: tuple[RunSpec, ...]
    notes: tuple[str, ...]


def plan(specs: Sequence[RunSpec], *, fresh: bool = False) -> Plan:
    """Look for the files of finished runs.

    Args:
        specs: all runs of the job.
        fresh: do all of them again.
    """
    finished: list[RunSpec] = []
    notes: list[str] = []
    for spec in specs:
        if fresh:
            continue
        try:
            stored = storage.load(spec.path)
        except FileNotFoundError:
            continue
        except storage.CorruptFileError as error:
            notes.append(f"corrupt result file {spec.path} ({error}); that run is repeated")
            continue
        if stored.fingerprint == spec.fingerprint():
            finished.append(spec)
        else:
            notes.append(f"{spec.path} has other settings or versions; that run is repeated")
    missing = tuple(spec for spec in specs if spec not in finished)
    return Plan(tuple(finished), missing, tuple(notes))


class JobError(RuntimeError):
    """Some runs failed or a worker died; the text names them."""


def execute(specs: Sequence[RunSpec], progress: Progress, log_directory: Path) -> None:
    """Do the runs, frameworks side by side, each framework's runs in order.

    Args:
        specs: runs to do.
        progress: told about every message.
        log_directory: where the workers' error output goes, one file per framework.

    Raises:
        JobError: after all workers have ended, if any run is missing.
    """
    messages: queue.Queue[dict[str, Any]] = queue.Queue()
    names = sorted({spec.framework for spec in specs}, reverse=True)
    shares = {
        name: [(i, spec) for i, spec in enumerate(specs) if spec.framework == name]
        for name in names
    }
    workers = {}
    try:
        for name, share in shares.items():
            workers[name] = _start(name, share, log_directory, messages)
        errors = _follow(specs, workers, messages, progress)
    finally:
        for process in workers.values():
            process.kill()
            process.wait()
    if errors:
        raise JobError("\n".join(errors))


def _start(
    name: str,
    share: list[tuple[int, RunSpec]],
    log_directory: Path,
    messages: queue.Queue[dict[str, Any]],
) -> subprocess.Popen[bytes]:
    """Start a worker and a thread that forwards its messages."""
    log_directory.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(log_directory / f"{name}.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.demo_job.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **THREADS, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the workers.
        )

    def forward() -> None:
        for line in process.stdout:
            messages.put({"worker": name, **json.loads(line)})
        messages.put({"worker": name, "kind": "end"})

    with process.stdin as pipe:
        pipe.write(pickle.dumps(share))
    threading.Thread(target=forward, daemon=True).start()
    return process


def _follow(
    specs: Sequence[RunSpec],
    workers: dict[str, subprocess.Popen[bytes]],
    messages: queue.Queue[dict[str, Any]],
    progress: Progress,
) -> list[str]:
    """Pass messages on until all workers have ended; return what went wrong."""
    errors: list[str] = []
    unfinished = {name: [s for s in specs if s.framework == name] for name in workers}
    ended = 0
    while ended < len(workers):
        try:
            message = messages.get(timeout=0.5)
        except queue.Empty:
            progress.refresh()
            continue
        name, kind = message["worker"], message["kind"]
        if kind == "end":
            ended += 1
            if unfinished[name]:
                status, where = workers[name].wait(), unfinished[name][0].path.stem
                errors.append(f"the {name} worker ended with status {status} before or in {where}")
            continue
        spec = specs[message["index"]]
        if kind in ("done", "failed"):
            unfinished[name].remove(spec)
        if kind == "failed":
            errors.append(f"{spec.path.stem} failed:\n{message['error']}")
        progress.handle(spec, message)
    return errors
