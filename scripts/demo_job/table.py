"""The table: medians over seeds of steps and seconds to target, and their ratio to the base optimizer's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from scripts.demo_job.loop import Run
from scripts.demo_job.storage import RunSpec
from scripts.demo_job.tasks import Task

Results = dict[RunSpec, Run]

FOOTNOTE = """\
Median over seeds (smallest to largest). Ratio: LLQR's median over the base optimizer's; below 1 LLQR is
ahead. A run that misses the target counts as infinity. Seconds hold training steps only, the fits of LLQR
included; compilation, a warm-up of two steps and evaluations are left out, for both methods alike."""


@dataclass(frozen=True)
class Summary:
    """One method on one task in one framework.

    Attributes:
        steps: steps to target by seed, infinity where it was missed.
        seconds: seconds to target by seed.
    """

    steps: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def reached(self) -> int:
        """How many runs reached the target."""
        return sum(math.isfinite(steps) for steps in self.steps)


def summarise(runs: Iterable[Run]) -> Summary:
    """Collect steps and seconds to target."""
    pairs = [
        (math.inf, math.inf)
        if run.steps_to_target is None or run.seconds_to_target is None
        else (float(run.steps_to_target), run.seconds_to_target)
        for run in runs
    ]
    return Summary(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def ratio(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the ratio of medians: infinity if only the base reaches the target, NaN if neither does."""
    top, bottom = median(values), median(base)
    if math.isinf(bottom):
        return math.nan if math.isinf(top) else 0.0
    return top / bottom if bottom > 0.0 else math.nan


def group(results: Results) -> dict[tuple[Task, str], dict[str, list[Run]]]:
    """Return (task, framework) ↦ method ↦ runs by seed, in the order of the results."""
    groups: dict[tuple[Task, str], dict[str, list[Run]]] = {}
    for spec, run in results.items():
        methods = groups.setdefault((spec.task, spec.framework), {})
        methods.setdefault(spec.method, []).append(run)
    return groups


def render(results: Results) -> str:
    """Return the table as text."""
    header = (
        "task (target)",
        "framework",
        "method",
        "reached",
        "steps",
        "ratio",
        "seconds",
        "ratio",
    )
    rows = [header]
    for (task, framework), methods in group(results).items():
        base = summarise(methods["base"]) if "base" in methods else None
        for method, runs in methods.items():
            own = summarise(runs)
            compare = base is not None and method != "base"
            rows.append(
                (
                    f"{task.name} ({task.measure} {task.target:g})",
                    framework,
                    f"Adam {task.learning_rate:g}" if method == "base" else "LLQR",
                    f"{own.reached}/{len(runs)}",
                    _spread(own.steps, "{:.0f}"),
                    _ratio(ratio(own.steps, base.steps)) if compare else "",
                    _spread(own.seconds, "{:.3g}"),
                    _ratio(ratio(own.seconds, base.seconds)) if compare else "",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", FOOTNOTE])


def _spread(values: Sequence[float], form: str) -> str:
    def show(value: float) -> str:
        return "missed" if math.isinf(value) else form.format(value)

    return f"{show(median(values))} ({show(min(values))} to {show(max(values))})"


def _ratio(value: float) -> str:
    if math.isnan(value):
        return "none"
    return "missed" if math.isinf(value) else f"{value:.2g}"
