"""One file of JSON lines per finished run; a file is either whole or not there.

{"kind": "run", ...}          task, framework, method, seed, settings, fingerprint, versions
{"kind": "point", ...}        one per evaluation
{"kind": "result", ...}       steps and seconds to target
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from llqr import __version__
from scripts.demo_job.loop import BEYOND_TARGET, Run
from scripts.demo_job.tasks import Task

FORMAT = 1
"""Raise it when files of the previous format must not be read."""

FRAMEWORKS = {"torch": ("torch",), "jax": ("jax", "jaxlib", "optax")}
"""Framework ↦ the distributions whose versions are recorded."""


@dataclass(frozen=True)
class RunSpec:
    """Which run.

    Attributes:
        task: the task with all its settings.
        framework: ``"torch"`` or ``"jax"``.
        method: ``"base"`` or ``"llqr"``.
        seed: of initial weights and batches.
        directory: where its file goes.
    """

    task: Task
    framework: str
    method: str
    seed: int
    directory: Path

    @property
    def path(self) -> Path:
        """The run's file."""
        return self.directory / f"{self.task.name}-{self.framework}-{self.method}-{self.seed}.jsonl"

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the outcome, each method's settings for that method only."""
        task = dataclasses.asdict(self.task)
        del task["llqr" if self.method == "base" else "learning_rate"]
        return {
            "format": FORMAT,
            "task": task,
            "framework": self.framework,
            "method": self.method,
            "seed": self.seed,
            "beyond_target": BEYOND_TARGET,
            "versions": versions(self.framework),
        }

    def fingerprint(self) -> str:
        """Return a hash of the settings and versions: a file with another one is out of date."""
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions(framework: str) -> dict[str, str]:
    """Return the versions of llqr and of a framework's distributions, without importing them."""
    return {"llqr": __version__} | {name: metadata.version(name) for name in FRAMEWORKS[framework]}


class CorruptFileError(ValueError):
    """A result file cannot be read; the text says why."""


@dataclass(frozen=True)
class StoredRun:
    """A run as read from its file."""

    fingerprint: str
    run: Run


def save(spec: RunSpec, run: Run) -> None:
    """Write a run's file: to a temporary one, flushed to the disk, then renamed over the old one."""
    header = {
        "kind": "run",
        "fingerprint": spec.fingerprint(),
        **spec.settings(),
        "machine": {
            "python": platform.python_version(),
            "system": platform.system(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }
    result = {
        "kind": "result",
        "steps_to_target": run.steps_to_target,
        "seconds_to_target": run.seconds_to_target,
        "diverged": run.diverged,
        "best": _number(run.best),
    }
    records = [header, *({"kind": "point", **_plain(point)} for point in run.curve), result]
    write_atomically(
        spec.path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
    )


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content so that readers see the old or the new one, never a part.

    Args:
        path: the file; its folder is made if need be.
        text: the new content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_temporary(directory: Path) -> None:
    """Delete what interrupted writes left behind."""
    for path in directory.glob("*.tmp"):
        path.unlink(missing_ok=True)


def load(path: Path) -> StoredRun:
    """Read a run's file.

    Raises:
        CorruptFileError: if it is not a whole file of this format.
        FileNotFoundError: if there is none.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        header, points, result = records[0], records[1:-1], records[-1]
        kinds = [header["kind"], *{point["kind"] for point in points}, result["kind"]]
        if kinds != ["run", "point", "result"]:
            raise CorruptFileError(f"expected the records run, point, result, found {kinds}")
        return StoredRun(header["fingerprint"], _run(points, result))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CorruptFileError(f"{type(error).__name__}: {error}") from error


def _run(points: list[dict[str, Any]], result: dict[str, Any]) -> Run:
    curve = [
        {name: math.nan if value is None else float(value) for name, value in point.items()}
        for point in ({k: v for k, v in point.items() if k != "kind"} for point in points)
    ]
    for point in curve:
        missing = {"step", "seconds", "measure"} - point.keys()
        if missing:
            raise CorruptFileError(f"a point lacks {', '.join(sorted(missing))}")
    steps, seconds = result["steps_to_target"], result["seconds_to_target"]
    if (steps is None) != (seconds is None):
        raise CorruptFileError(f"steps_to_target is {steps} but seconds_to_target is {seconds}")
    return Run(
        curve=curve,
        steps_to_target=None if steps is None else int(steps),
        seconds_to_target=None if seconds is None else float(seconds),
        diverged=bool(result["diverged"]),
    )


def _plain(point: dict[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in point.items()}


def _number(value: float) -> float | None:
    """Return the value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
