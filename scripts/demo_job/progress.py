"""The live line: runs done, what is running, the best value so far, the time left."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from tqdm import tqdm

from scripts.demo_job.storage import RunSpec

SECONDS_BETWEEN_LINES = 10.0
"""How often a line appears where the output is no terminal."""


class Progress:
    """A progress bar over runs.

    Args:
        total: runs of the whole job.
        finished: runs that were there before.
        remaining: framework ↦ runs to do.
        stream: where to write.
    """

    def __init__(
        self,
        total: int,
        finished: int,
        remaining: dict[str, int],
        stream: TextIO = sys.stderr,
    ) -> None:
        terminal = stream.isatty()
        self.remaining = dict(remaining)
        self.durations: dict[str, list[float]] = {name: [] for name in remaining}
        self.running: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.bar = tqdm(
            total=total,
            initial=finished,
            file=stream,
            dynamic_ncols=terminal,
            mininterval=0.1 if terminal else SECONDS_BETWEEN_LINES,
            bar_format="{n_fmt}/{total_fmt} runs [{bar:20}] {elapsed}{postfix}",
        )

    def handle(self, spec: RunSpec, message: dict[str, Any]) -> None:
        """Take in a worker's message."""
        name, kind = spec.framework, message["kind"]
        title = f"{name} {spec.task.name} {spec.method} seed {spec.seed}"
        if kind == "start":
            self.started[name] = time.monotonic()
            self.running[name] = f"{title} …"
        elif kind == "progress":
            self.running[name] = f"{title} step {message['step']} best {message['best']:.3g}"
        else:
            self.remaining[name] -= 1
            self.running.pop(name, None)
            self.durations[name].append(time.monotonic() - self.started.pop(name))
            self.bar.update(1)
        self.refresh()

    def seconds_left(self) -> float | None:
        """Return the time of the slower worker for its remaining runs; None until each finished one."""
        now, estimates = time.monotonic(), []
        for name, count in self.remaining.items():
            if not count:
                continue
            if not self.durations[name]:
                return None
            mean = sum(self.durations[name]) / len(self.durations[name])
            spent = min(mean, now - self.started[name]) if name in self.started else 0.0
            estimates.append(count * mean - spent)
        return max(estimates, default=0.0)

    def refresh(self) -> None:
        """Bring the line up to date."""
        left = self.seconds_left()
        text = "time left unknown" if left is None else f"about {tqdm.format_interval(left)} left"
        self.bar.set_postfix_str(" | ".join([text, *self.running.values()]), refresh=False)
        now = time.time()
        if now - self.bar.last_print_t >= self.bar.mininterval:
            self.bar.last_print_t = now
            self.bar.refresh()

    def close(self) -> None:
        """Leave the last line standing."""
        self.bar.set_postfix_str("", refresh=False)
        self.bar.close()
