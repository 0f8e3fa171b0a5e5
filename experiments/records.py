"""The record of a trial: one JSON file, whole or absent, that holds all a report needs.

A trial is over when its record is there. Records of failed trials say why.
"""

import gzip
import json
import math
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError
from experiments.plan import TRIALS, TrialSpec
from workloads_extra.runner.metadata import versions
from workloads_extra.runner.storage import write_bytes

RECORD = "record.json"
COLLECTION = "records.jsonl.gz"
FORMAT = 1
"""Raise it when records of the previous format must not be read."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Outcome of a trial.

    Attributes:
        spec: of the trial.
        fingerprint: of its settings and of the workload's targets.
        goal: ``metric``, ``validation_target`` and ``minimise`` of the workload.
        result: as in ``result.json``; None for a failed trial.
        reason: why it failed; None for a finished trial.
        curve: ``step``, ``seconds`` and, by metric, values of every evaluation; NaN where not finite.
        wall_seconds: from start to end of the trial, imports of the framework excluded.
        about: versions and machine.
    """

    spec: TrialSpec
    fingerprint: str
    goal: dict[str, Any]
    result: dict[str, Any] | None
    reason: str | None = None
    curve: dict[str, list[float]] = field(default_factory=dict)
    wall_seconds: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Did the trial end with an error."""
        return self.reason is not None

    @property
    def steps_to_target(self) -> float:
        """Steps to the validation target, infinity if it was not reached."""
        return _or_infinity(self.result, "steps_to_target")

    @property
    def seconds_to_target(self) -> float:
        """Submission time to the validation target, infinity if it was not reached."""
        return _or_infinity(self.result, "time_to_target")

    @property
    def best(self) -> float:
        """Best validation metric, NaN where there is none."""
        value = None if self.result is None else self.result["best_validation"]
        return math.nan if value is None else value

    @property
    def last(self) -> float:
        """Validation metric of the last evaluation, NaN where there is none."""
        values = self.curve.get(self.goal.get("metric", ""), [])
        return values[-1] if values else math.nan


def _or_infinity(result: dict[str, Any] | None, name: str) -> float:
    value = None if result is None else result[name]
    return math.inf if value is None else float(value)


def about() -> dict[str, Any]:
    """Return versions and the machine."""
    return {
        **versions(),
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
    }


def path_of(spec: TrialSpec, root: Path) -> Path:
    """Return where a trial's record goes."""
    return spec.directory(root) / RECORD


def save(record: Record, root: Path) -> None:
    """Write a record in one step, to the disk."""
    path = path_of(record.spec, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, dump(record).encode())
    # The name is on the disk once its folder is.
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dump(record: Record) -> str:
    """Return a record as one line of JSON."""
    return json.dumps({"format": FORMAT, **_plain(asdict(record))}, allow_nan=False)


def parse(text: str) -> Record:
    """Read what :func:`dump` returned.

    Args:
        text: one record.

    Returns:
        The record.

    Raises:
        ExperimentError: if it is not a whole record of this format.
    """
    try:
        values = json.loads(text)
        found = values.pop("format")
        if found != FORMAT:
            raise ExperimentError(f"a record of format {found}, where {FORMAT} is read")
        spec = TrialSpec(**values.pop("spec"))
        curve = {
            name: [math.nan if value is None else float(value) for value in column]
            for name, column in values.pop("curve").items()
        }
        return Record(spec=spec, curve=curve, **values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ExperimentError(f"not a record: {type(error).__name__}: {error}") from error


def load(spec: TrialSpec, root: Path) -> Record | None:
    """Return the record of a trial; None if there is none, or none of the same settings.

    Raises:
        ExperimentError: for a damaged file, which only something else than this program can have left.
    """
    path = path_of(spec, root)
    try:
        record = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ExperimentError as error:
        raise ExperimentError(f"{path}: {error}; delete it to repeat that trial") from error
    return record if record.fingerprint == spec.fingerprint() else None


def load_all(*roots: Path) -> list[Record]:
    """Return all records below folders, from their own files or else from a collection."""
    found = []
    for path in [path for root in roots for path in _files(root)]:
        try:
            content = path.read_bytes()
            content = gzip.decompress(content) if path.name == COLLECTION else content
            found += [parse(line) for line in content.decode().splitlines() if line.strip()]
        except (ExperimentError, OSError, EOFError, UnicodeDecodeError) as error:
            raise ExperimentError(f"{path}: {error}") from error
    return found


def collect(found: list[Record], root: Path) -> Path:
    """Write records into one small file, to keep after the folders of trials are gone; return its path."""
    path = root / COLLECTION
    text = "".join(f"{dump(record)}\n" for record in found)
    # Without the time, the same records give the same bytes.
    write_bytes(path, gzip.compress(text.encode(), mtime=0))
    return path


def _files(root: Path) -> list[Path]:
    own = sorted((root / TRIALS).glob(f"**/{RECORD}"))
    return own or sorted(root.glob(COLLECTION))


def _plain(value: Any) -> Any:
    """Replace numbers that JSON does not have with null."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
