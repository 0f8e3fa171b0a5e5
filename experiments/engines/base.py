"""What engines have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from experiments.plan import TrialSpec
from experiments.records import Record


@dataclass(frozen=True, kw_only=True)
class Event:
    """A trial started or ended.

    Attributes:
        spec: of the trial.
        record: its record once it has ended, None at its start.
    """

    spec: TrialSpec
    record: Record | None


class Engine(Protocol):
    """Runs trials, several at a time."""

    workers: int
    """How many at a time."""

    def run(
        self, specs: Sequence[TrialSpec], root: Path, on_event: Callable[[Event], None]
    ) -> None:
        """Run all trials, in this order as far as they run one after the other.

        Args:
            specs: the trials.
            root: folder of the comparison, where their records go.
            on_event: told about every start and end.
        """
