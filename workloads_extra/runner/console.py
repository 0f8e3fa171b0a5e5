"""One line that shows where a trial stands."""

import sys
import time
from typing import Any, TextIO

_TERMINAL_PERIOD = 0.2
_FILE_PERIOD = 15.0


class ProgressLine:
    """Rewrites one line on a terminal, or writes one now and then elsewhere.

    Args:
        label: of the trial.
        workload: gives metric, target and time limit.
        max_runtime: submission time allowed, in seconds.
        stream: where to write; None for nowhere.
    """

    def __init__(
        self, label: str, workload: Any, max_runtime: float, stream: TextIO | None = sys.stderr
    ):
        self._label = label
        self._metric = f"validation/{workload.target_metric_name}"
        self._target = workload.validation_target_value
        self._max_runtime = max_runtime
        self._stream = stream
        self._terminal = stream is not None and stream.isatty()
        self._period = _TERMINAL_PERIOD if self._terminal else _FILE_PERIOD
        self._written = 0.0
        self._evaluated = "not evaluated yet"

    def step(self, global_step: int, submission_time: float) -> None:
        """Show a step, if enough time has passed."""
        if time.monotonic() - self._written >= self._period:
            self._write(global_step, submission_time)

    def evaluation(self, global_step: int, metrics: dict[str, float]) -> None:
        """Take note of an evaluation; it is shown from the next line on."""
        value = metrics[self._metric]
        self._evaluated = (
            f"{self._metric} {value:.6g} at step {global_step} (target {self._target:.6g})"
        )

    def close(self, global_step: int, submission_time: float, outcome: str) -> None:
        """Write the last line of a trial."""
        self._write(
            global_step, submission_time, f"; stopped by {outcome}\n" if self._terminal else ""
        )
        if not self._terminal:
            self._print(f"{self._label}: stopped by {outcome}\n")

    def _write(self, global_step: int, submission_time: float, end: str = "") -> None:
        """Write the line."""
        self._written = time.monotonic()
        text = (
            f"{self._label}: step {global_step}, {submission_time:.1f} of {self._max_runtime:.0f} s, "
            f"{self._evaluated}"
        )
        # \x1b[K clears what a longer line left behind.
        self._print(f"\r{text}\x1b[K{end}" if self._terminal else f"{text}\n")

    def _print(self, text: str) -> None:
        """Write at once."""
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()
