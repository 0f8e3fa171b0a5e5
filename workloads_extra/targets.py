"""Targets and budgets of the extra workloads, read from ``targets.json``.

The file is written by ``python -m workloads_extra.set_targets``; its module says by what procedure.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parent / "targets.json"


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a submission has to reach on a workload, and in which time.

    Attributes:
        validation_target: value of the target metric on the validation split.
        test_target: value of the target metric on the test split.
        step_hint: steps that the baseline's learning rate schedule was tuned for.
        max_runtime_sec: submission time after which a run is stopped, in seconds.
        eval_period_sec: time between two evaluations, in seconds.
    """

    validation_target: float
    test_target: float
    step_hint: int
    max_runtime_sec: float
    eval_period_sec: float


def of(name: str) -> Targets:
    """Return the targets of a workload.

    Args:
        name: as in the registry.

    Returns:
        Its entry of ``targets.json``.

    Raises:
        KeyError: for a workload without an entry.
    """
    entries = _read()
    if name not in entries:
        raise KeyError(
            f"{PATH.name} has no entry for {name!r}; make it: python -m workloads_extra.set_targets {name}"
        )
    return Targets(**{field: entries[name][field] for field in Targets.__dataclass_fields__})


def assume(name: str, targets: Targets) -> None:
    """Use other targets in this process, which is how targets are set in the first place.

    Args:
        name: as in the registry.
        targets: to use.
    """
    _read()[name] = vars(targets)


@functools.cache
def _read() -> dict[str, dict]:
    """Read the file once per process."""
    return json.loads(PATH.read_text(encoding="utf-8"))["workloads"]
