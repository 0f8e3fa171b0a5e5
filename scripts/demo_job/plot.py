"""The picture: training curves of both methods, task by task and framework by framework."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from scripts.demo_job.loop import Run
from scripts.demo_job.table import Results, group
from scripts.demo_job.tasks import Task

# Okabe and Ito's blue and vermilion, told apart by every kind of colour vision; dashes help in grey.
STYLES = {
    "base": {
        "color": "#0072B2",
        "linestyle": "--",
        "label": "Adam, best learning rate of the grid",
    },
    "llqr": {"color": "#D55E00", "linestyle": "-", "label": "LLQR around Adam, no learning rate"},
}
AXES = {"step": "steps", "seconds": "seconds of training"}
SPREAD_OPACITY = 0.22
BELOW_TARGET = 3.0
"""How far the panels reach below the target, as a factor."""


def spread(
    runs: Sequence[Run], axis: str, points: int = 400, *, logarithmic: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return a common grid [points] and, on it, lowest, median and highest best value so far [3, points].

    The best value so far is what steps and seconds to target are about. A run that ended keeps its last.

    Args:
        runs: one per seed.
        axis: ``"step"`` or ``"seconds"``.
        points: size of the grid.
        logarithmic: space the grid evenly in the logarithm; it then starts at half the first evaluation.
    """
    end = max(run.curve[-1][axis] for run in runs)
    grid = np.linspace(0.0, end, points)
    firsts = [run.curve[1][axis] for run in runs if len(run.curve) > 1]
    if logarithmic and firsts and min(firsts) > 0.0:
        grid = np.geomspace(min(firsts) / 2.0, end, points)
        grid[-1] = end  # Rounding must not lose the last evaluation.
    curves = []
    for run in runs:
        x = np.array([point[axis] for point in run.curve])
        y = np.fmin.accumulate([point["measure"] for point in run.curve])
        # The value in force at each moment: that of the last evaluation before it.
        curves.append(y[np.searchsorted(x, grid, side="right") - 1])
    stacked = np.array(curves)
    return grid, np.stack([stacked.min(axis=0), np.median(stacked, axis=0), stacked.max(axis=0)])


def draw(results: Results, path: Path) -> None:
    """Write the PNG: one row per task, for each framework a panel over steps and one over seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = group(results)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    frameworks = list(dict.fromkeys(framework for _, framework in groups))
    columns = [(framework, axis) for framework in frameworks for axis in AXES]
    figure, panels = plt.subplots(
        len(tasks),
        len(columns),
        figsize=(3.3 * len(columns), 2.5 * len(tasks) + 0.8),
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for row, task in enumerate(tasks):
        for column, (framework, axis) in enumerate(columns):
            panel = panels[row][column]
            _panel(panel, task, groups.get((task, framework), {}), axis)
            name = "JAX" if framework == "jax" else framework
            panel.set_title(f"{task.title}, {name}", fontsize=10)
            panel.set_xlabel(AXES[axis], fontsize=9)
            if column == 0:
                panel.set_ylabel("best " + task.measure.replace(" (", "\n("), fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, dpi=150, format="png")
    plt.close(figure)
    os.replace(temporary, path)


def _panel(panel: Any, task: Task, methods: dict[str, list[Run]], axis: str) -> None:
    # Two steps beside a thousand are invisible on an even axis.
    logarithmic = not task.layers
    bottom = task.target / BELOW_TARGET
    for method, runs in methods.items():
        grid, bands = spread(runs, axis, logarithmic=logarithmic)
        low, middle, high = np.maximum(bands, bottom / 10.0)  # An exact zero has no logarithm.
        style = STYLES[method]
        panel.fill_between(grid, low, high, color=style["color"], alpha=SPREAD_OPACITY, linewidth=0)
        panel.plot(grid, middle, linewidth=1.8, **style)
    panel.axhline(task.target, color="black", linewidth=0.9, linestyle=":", label="target")
    panel.set_yscale("log")
    panel.set_ylim(bottom=bottom)
    if panel.get_ylim()[1] < 100.0 * bottom:
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter("{x:g}")
    if logarithmic:
        panel.set_xscale("log")
    else:
        panel.set_xlim(left=0)
    panel.tick_params(labelsize=8)
    panel.grid(True, which="major", color="#DDDDDD", linewidth=0.6)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
