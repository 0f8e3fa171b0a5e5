"""Side-by-side timing: every contestant runs once per round, so that drift hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def seconds(
    contestants: Mapping[str, Callable[[], None]],
    rounds: int,
    prepare: Mapping[str, Callable[[], None]] | None = None,
) -> dict[str, float]:
    """Return the median seconds of every contestant over ``rounds`` interleaved rounds.

    Each runs once beforehand, unmeasured (compilation, caches). A contestant must block until its work is
    done. What ``prepare`` has for a contestant runs before it each time and is not measured.
    """
    before = prepare or {}
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            if name in before:
                before[name]()
            start = time.perf_counter()
            run()
            if round_ > 0:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}
