"""Side-by-side timing: every contestant runs once per round, so that drift hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def seconds(contestants: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the median seconds of every contestant over ``rounds`` interleaved rounds.

    Each runs once beforehand, unmeasured (compilation, caches). A contestant must block until its work is
    done.
    """
    for run in contestants.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}
