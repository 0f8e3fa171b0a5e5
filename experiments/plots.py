"""The pictures of a report: performance profiles and training curves, as PNG."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import scoring, summary
from experiments.records import Record
from experiments.summary import SECONDS, STEPS, Entry
from experiments.tables import framework_name

# Okabe and Ito's colours, told apart by every kind of colour vision; dashes tell more than eight lines apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999", "#B8A800", "#000000")
SUBJECT_COLOURS = ("#D55E00", "#8B2500", "#FF8C42", "#5C1A00")
DASHES = ("-", "--", ":", "-.")
SMALLEST_GAP = 1e-4
"""Where an accuracy of 1 is drawn on a logarithmic axis of what is missing of 1."""
NAMES = {STEPS: "steps", SECONDS: "seconds of training"}


def styles(submissions: Sequence[str], subject: str = "llqr") -> dict[str, dict[str, Any]]:
    """Return colour, dashes and width of every submission's lines; the subject's stand out."""
    found: dict[str, dict[str, Any]] = {}
    counts = {True: 0, False: 0}
    for name in submissions:
        own = name.startswith(subject)
        colours, count = (SUBJECT_COLOURS if own else COLOURS), counts[own]
        counts[own] += 1
        found[name] = {
            "color": colours[count % len(colours)],
            "linestyle": DASHES[count // len(colours) % len(DASHES)],
            "linewidth": 2.4 if own else 1.4,
            "zorder": 3 if own else 2,
        }
    return found


def profiles(found: Sequence[Entry], framework: str, measure: str) -> bytes:
    """Draw the performance profiles of one framework.

    Args:
        found: all entries.
        framework: whose.
        measure: over steps or over seconds.

    Returns:
        A PNG.
    """
    own = summary.select(found, framework)
    times: dict[str, dict[str, float]] = {}
    for entry in own:
        times.setdefault(entry.submission, {})[entry.workload] = entry.time(measure)
    figure, panel = subplots()
    for name, values in scoring.profiles(times).items():
        style = styles(list(times))[name]
        panel.step(scoring.score_taus(), values, where="post", label=name, **style)
    panel.set_title(f"Performance profiles, {framework_name(framework)}", fontsize=10)
    panel.set_xlabel(f"τ: {NAMES[measure]} ÷ those of the best")
    panel.set_ylabel("share of workloads")
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlim(1.0, scoring.LARGEST_RATIO)
    return png(figure, panel)


def curves(found: Sequence[Entry], framework: str, workload: str, which: str) -> bytes:
    """Draw one trial of every submission on one workload.

    Args:
        found: all entries.
        framework: whose.
        workload: which.
        which: the ``best`` or the ``median`` trial, by steps to target, then by best metric.

    Returns:
        A PNG.
    """
    own = summary.select(found, framework, workload)
    style = styles([entry.submission for entry in own])
    goal = next((entry.goal for entry in own if entry.goal), {})
    figure, panel = subplots()
    for entry in own:
        ranked = entry.ranked()
        if ranked:
            record = ranked[0 if which == "best" else len(ranked) // 2]
            _curve(panel, record, goal, style[entry.submission])
    title = f"{workload}, {framework_name(framework)}: {which} trial"
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("steps")
    panel.set_xscale("log")
    _axis(panel, goal)
    return png(figure, panel)


def _curve(panel: Any, record: Record, goal: dict[str, Any], style: dict[str, Any]) -> None:
    """Draw the best value so far, which is what times to target are about."""
    best = np.fmin if goal["minimise"] else np.fmax
    values = record.curve.get(goal["metric"], [])
    if values:
        label, drawn = record.spec.submission, best.accumulate(values)
        drawn = np.maximum(1.0 - drawn, SMALLEST_GAP) if _is_share(goal) else drawn
        panel.plot(record.curve["step"], drawn, label=label, **style)


def _is_share(goal: dict[str, Any]) -> bool:
    """Is the metric one of which 1 is the best, an accuracy, so that what is missing of 1 can be drawn."""
    return not goal["minimise"] and 0.0 < goal["validation_target"] < 1.0


def _axis(panel: Any, goal: dict[str, Any]) -> None:
    """Draw the target, and choose an axis on which the way to it can be seen."""
    if not goal:
        return
    target = goal["validation_target"]
    name = f"best {goal['metric']} so far"
    panel.set_ylabel(f"1 − {name}" if _is_share(goal) else name)
    line = 1.0 - target if _is_share(goal) else target
    panel.axhline(line, color="black", linewidth=0.9, linestyle=":")
    if _is_share(goal):
        panel.set_yscale("log")
    elif goal["minimise"]:
        panel.set_yscale("log")
        low, high = panel.get_ylim()
        panel.set_ylim(max(low, target / 10.0), min(high, 1e8 * target))


def subplots() -> tuple[Any, Any]:
    """Return a new figure and its panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(5.2, 4.2), layout="constrained")


def png(figure: Any, panel: Any) -> bytes:
    """Return a finished figure with its legend as PNG, and close it."""
    import matplotlib.pyplot as plt

    entries: dict[str, Any] = {}
    for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
        entries.setdefault(label, handle)
    panel.grid(alpha=0.3)
    if entries:
        columns = min(3, math.ceil(len(entries) / 2))
        figure.legend(
            entries.values(), entries, loc="outside lower center", ncols=columns, fontsize=7
        )
    buffer = io.BytesIO()
    # No date inside, so that the same records give the same bytes.
    figure.savefig(buffer, dpi=130, format="png", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
