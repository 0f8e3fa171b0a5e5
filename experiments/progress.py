"""One line that shows where a comparison stands: done, running, failed, best so far, time left."""

import math
import statistics
import time
from collections import defaultdict
from typing import TextIO

from experiments.engines.base import Event
from experiments.plan import TrialSpec
from experiments.records import Record

_TERMINAL_PERIOD = 0.2
_FILE_PERIOD = 15.0


class Progress:
    """Rewrites one line on a terminal, or writes one now and then elsewhere.

    Args:
        todo: trials to run.
        records: of the trials that are there already.
        workers: trials at a time.
        stream: where to write; None for nowhere.
    """

    def __init__(
        self,
        todo: list[TrialSpec],
        records: list[Record],
        workers: int,
        stream: TextIO | None = None,
    ):
        self._remaining: dict[tuple[str, str, str], int] = defaultdict(int)
        for spec in todo:
            self._remaining[_kind(spec)] += 1
        self._total = len(todo) + len(records)
        self.done, self.failed = len(records), sum(record.failed for record in records)
        self._running: dict[TrialSpecKey, float] = {}
        self._durations: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self._best: dict[str, tuple[float, str]] = {}
        for record in records:
            self._compare(record)
        self._workers = workers
        self._stream = stream
        self._terminal = stream is not None and stream.isatty()
        self._written = -math.inf
        self._started, self._inside = time.monotonic(), 0.0

    def __call__(self, event: Event) -> None:
        """Take in that a trial started or ended."""
        spec, record = event.spec, event.record
        if record is None:
            self._running[_key(spec)] = time.monotonic()
            self._remaining[_kind(spec)] -= 1
        else:
            started = self._running.pop(_key(spec))
            self._durations[_kind(spec)].append(time.monotonic() - started)
            self.done += 1
            self.failed += record.failed
            self._inside += record.wall_seconds
            self._compare(record)
            if record.failed:
                self._print_line(f"failed: {spec.title}: {record.reason}")
        period = _TERMINAL_PERIOD if self._terminal else _FILE_PERIOD
        if time.monotonic() - self._written >= period:
            self._show()

    def _compare(self, record: Record) -> None:
        """Keep the fewest steps to target of every workload."""
        spec, steps = record.spec, record.steps_to_target
        key = spec.workload
        if steps < self._best.get(key, (math.inf, ""))[0]:
            self._best[key] = (steps, f"{spec.submission} {spec.framework}")

    def outside(self) -> float:
        """Return the share of the workers' time so far in which they ran no trial."""
        whole = (time.monotonic() - self._started) * self._workers
        return max(1.0 - self._inside / whole, 0.0) if whole > 0.0 else 0.0

    def seconds_left(self) -> float | None:
        """Return the estimate of the time left; None before any trial has ended."""
        known = [value for values in self._durations.values() for value in values]
        if not known:
            return None
        overall = statistics.fmean(known)
        mean = {
            kind: statistics.fmean(values) for kind, values in self._durations.items() if values
        }
        waiting = sum(
            count * mean.get(kind, overall) for kind, count in self._remaining.items() if count
        )
        running = sum(max(overall - (time.monotonic() - at), 0.0) for at in self._running.values())
        return (waiting + running) / self._workers

    def text(self) -> str:
        """Return the line."""
        left = self.seconds_left()
        best = ", ".join(
            f"{workload} {steps:.0f} steps ({who})"
            for workload, (steps, who) in sorted(self._best.items())
        )
        parts = [
            f"{self.done}/{self._total} trials",
            f"{min(len(self._running), self._workers)} running",
            *([f"{self.failed} failed"] if self.failed else []),
            f"best: {best or 'no target reached yet'}",
            "time left unknown" if left is None else f"about {_duration(left)} left",
        ]
        return "; ".join(parts)

    def close(self) -> None:
        """Leave the last line standing."""
        self._show()
        if self._terminal and self._stream is not None:
            self._stream.write("\n")

    def _show(self) -> None:
        self._written = time.monotonic()
        # \x1b[K clears what a longer line left behind.
        self._print(f"\r{self.text()}\x1b[K" if self._terminal else f"{self.text()}\n")

    def _print_line(self, text: str) -> None:
        self._print(f"\r{text}\x1b[K\n" if self._terminal else f"{text}\n")

    def _print(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


TrialSpecKey = tuple[str, str, str, int, int]


def _key(spec: TrialSpec) -> TrialSpecKey:
    return (spec.submission, spec.framework, spec.workload, spec.study, spec.trial)


def _kind(spec: TrialSpec) -> tuple[str, str, str]:
    """Trials of which we expect the same duration."""
    return (spec.submission, spec.framework, spec.workload)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
