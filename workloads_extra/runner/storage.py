"""Writing results so that neither an interruption nor a full disk loses what is there already."""

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from workloads_extra.runner.errors import StorageError


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file in one step: readers find the old content or the new one, never a part.

    Args:
        path: file to write.
        content: all of it.
        durable: whether to wait for the disk; otherwise a loss of power soon after can leave an empty file.

    Raises:
        StorageError: if the disk is full or the file cannot be written; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(_advice(path, error)) from error


def make_directory(path: Path) -> None:
    """Make a directory and those above it.

    Args:
        path: of the directory, which may exist.

    Raises:
        StorageError: if it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(_advice(path, error)) from error


def _advice(path: Path, error: OSError) -> str:
    """What was not written, and what to do."""
    return (
        f"cannot write {path}: {error.strerror or error}; what was written before is intact. "
        "Make room, then continue with --resume_last_run"
    )


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write JSON as `write_bytes` does."""
    write_bytes(path, json.dumps(value, indent=2, default=str).encode(), durable=durable)


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


class Table:
    """A CSV file that grows by rows, and by columns where a row brings a new one.

    Args:
        path: of the file; rows already there are kept.
    """

    def __init__(self, path: Path):
        self._path = path
        self._rows = _read_rows(path)

    def append(self, row: dict[str, Any]) -> None:
        """Add a row and write the file anew."""
        self._rows.append(dict(row))
        self._write()

    def keep_until(self, step: int) -> None:
        """Drop the rows of later steps, which a resumed run goes through again."""
        kept = [row for row in self._rows if int(float(row["global_step"])) <= step]
        if len(kept) < len(self._rows):
            self._rows = kept
            self._write()

    def _write(self) -> None:
        """Write all rows, columns in the order in which they came up."""
        columns = list(dict.fromkeys(name for row in self._rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_bytes(self._path, text.getvalue().encode())


class MetricsLogger:
    """The files of measurements of a trial, in the form the official scoring code reads.

    ``measurements.csv`` holds every row, ``eval_measurements.csv`` those of evaluations.

    Args:
        directory: of the trial.
    """

    def __init__(self, directory: Path):
        self._all = Table(directory / "measurements.csv")
        self._evaluations = Table(directory / "eval_measurements.csv")

    def append_scalar_metrics(
        self,
        metrics: dict[str, Any],
        global_step: int,
        preemption_count: int | None = None,
        is_eval: bool = False,
    ) -> None:
        """Record metrics; submissions may call this through ``workload.metrics_logger``.

        Args:
            metrics: numbers by name.
            global_step: steps done.
            preemption_count: how often the run was resumed.
            is_eval: whether they come from an evaluation.
        """
        row = {**metrics, "global_step": global_step}
        if preemption_count is not None:
            row["preemption_count"] = preemption_count
        self._all.append(row)
        if is_eval:
            self._evaluations.append(row)

    def keep_until(self, step: int) -> None:
        """Drop the rows of later steps from both files."""
        self._all.keep_until(step)
        self._evaluations.keep_until(step)

    def finish(self) -> None:
        """Nothing is left open."""


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a file, without the cells that their row does not have."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]
