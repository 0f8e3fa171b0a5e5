"""Named settings: published runs, step sizes without a learning rate, structures that turn an update.

Source: the published configurations and defaults of "Layerwise LQR for Geometry-Aware Optimization of
Deep Networks" (arXiv 2605.04230): momentum inner solver (50 steps, learning rate 1e-3, momentum 0.9, each
factor's gradient clipped at norm 5), no damping, factors of scalar and diagonal clipped from below at
1e-8, Fisher summed over the batch, warm start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from llqr.annealing import Annealing
from llqr.config import LLQRConfig, check_known, configure
from llqr.intervals import AdaptiveInterval, Interval
from llqr.metrics import AbstractMetric
from llqr.multiplier import AdaptiveMultiplier
from llqr.ridge import AdaptiveRidge
from llqr.solvers import ConjugateGradient, DirectSolve
from llqr.structures import Span
from llqr.structures.blocks import StructureChoice


@dataclass(frozen=True)
class PublishedTask:
    """What differs between the published tasks.

    Attributes:
        update_interval: steps between fits.
        curvature_batch_size: examples per fit.
        ema_decay: β with the Fisher.
        base_optimizer: the base optimizer of the published run, for information.
    """

    update_interval: int
    curvature_batch_size: int
    ema_decay: float
    base_optimizer: str


PUBLISHED_TASKS = {
    "cifar": PublishedTask(1000, 128, 0.95, "SGD, learning rate 0.05, momentum 0.9, decay 5e-4"),
    "imagenet": PublishedTask(1500, 256, 0.95, "SGD, learning rate 0.1, momentum 0.9, decay 1e-4"),
    "translation": PublishedTask(1000, 48, 0.925, "AdamW, learning rate 5e-4, betas 0.9 and 0.98"),
    "grokking": PublishedTask(2500, 512, 0.95, "AdamW, learning rate 1e-3, betas 0.9 and 0.98"),
}
NEWTON_EMA_DECAY = 0.9
DEFAULT_INTERVAL = AdaptiveInterval(longest=20)
GROWTH = 2.0
"""How many times as long as at its fit a step of solved length may become."""
SHAPING_STEPS = 3
"""Inner steps of a structure that shapes an update: more of them fit the noise of one batch."""


def published(
    task: str,
    *,
    curvature: Literal["fisher", "newton"] = "fisher",
    structure: str | StructureChoice = "diagonal",
    likelihood: str | AbstractMetric = "categorical",
    **overrides: Any,
) -> LLQRConfig:
    """Return the published settings of a task.

    Args:
        task: ``"cifar"``, ``"imagenet"``, ``"translation"`` or ``"grokking"``.
        curvature: ``"fisher"`` or ``"newton"``.
        structure: a structure's name or object; the published runs use ``"diagonal"``.
        likelihood: loss type, for the Fisher.
        **overrides: settings of :func:`llqr.config.configure` to change. Another ``inner_solver`` comes
            without the published solver's options.

    Raises:
        ValueError: for unknown names, listing the known ones.
    """
    check_known("task", task, PUBLISHED_TASKS)
    check_known("published curvature", curvature, ("fisher", "newton"))
    values = PUBLISHED_TASKS[task]
    fisher = {"likelihood": likelihood, "curvature_reduction": "sum"}
    floored = structure in ("scalar", "diagonal")
    settings: dict[str, Any] = {
        "curvature": curvature,
        "curvature_options": fisher if curvature == "fisher" else {},
        "structure": structure,
        "structure_options": {"floor": 1e-8} if floored else {},
        "inner_solver": "momentum",
        "solver_options": {"steps": 50, "learning_rate": 1e-3, "momentum": 0.9, "clip_norm": 5.0},
        "damping": 0.0,
        "update_interval": values.update_interval,
        "curvature_batch_size": values.curvature_batch_size,
        "ema_decay": values.ema_decay if curvature == "fisher" else NEWTON_EMA_DECAY,
        "warm_start": True,
    }
    if "inner_solver" in overrides:
        del settings["solver_options"]
    return configure(**{**settings, **overrides})


def step_sizes(
    likelihood: str | AbstractMetric,
    *,
    total_steps: int | None = None,
    output_metric: float = 0.01,
    update_interval: Interval = DEFAULT_INTERVAL,
    **overrides: Any,
) -> LLQRConfig:
    """Return settings that solve for every step size, so that no learning rate is left to tune.

    U spans the base optimizer's update and the raw gradient with one step size per parameter and direction,
    solved for exactly (r as in :mod:`llqr.solvers.direct`) under C = Jᵀ(F + εI)J. The base optimizer's
    learning rate only scales a direction, and so drops out; Adam with betas 0.9 and 0.99 is the base this
    was measured with. How far the quadratic model is trusted follows the losses its steps lead to
    (:mod:`llqr.ridge`), on examples that they were made of and on others (:mod:`llqr.holdout`); how long a
    solution is used follows how fast it moves (:mod:`llqr.intervals`). Steps get shorter that went too far
    (:mod:`llqr.multiplier`). Where the length of the run is known, its last four fifths anneal lengths
    measured in the first tenth (:mod:`llqr.annealing`); where it is not, slopes tell as well what went too
    far, which takes the memory of the parameters once more.

    Args:
        likelihood: loss type whose Fisher F is used, a name or a metric.
        total_steps: steps of the run; None not to anneal.
        output_metric: ε > 0, bounds the change of the outputs where F vanishes (near interpolation).
        update_interval: steps between solves, a schedule of the step, or a rule.
        **overrides: settings of :func:`llqr.config.configure` to change.

    Raises:
        ValueError: for unknown names, listing the known ones, or values out of range.
    """
    solves_lengths = (
        overrides.get("apply_to", "update") == "update"
        and overrides.get("grafting", "none") == "none"
    )
    settings: dict[str, Any] = {
        "annealing": None if total_steps is None else Annealing(total_steps=total_steps),
        "curvature": "fisher",
        "curvature_options": {"likelihood": likelihood, "output_metric": output_metric},
        "structure": Span(per="parameter", directions=("update", "gradient"), floor=0.0),
        "inner_solver": DirectSolve(relative_ridge=AdaptiveRidge()),
        "update_interval": update_interval,
        "ema_decay": 0.5,
        "ema_debias": True,
        "growth": GROWTH,
        "multiplier": AdaptiveMultiplier(slopes=total_steps is None) if solves_lengths else None,
        "held_out": None if "inner_solver" in overrides else 1.0,
        "warm_start": True,
        "apply_to": "update",
    }
    return configure(**{**settings, **overrides})


def shaped(
    structure: str | StructureChoice = "kronecker",
    *,
    likelihood: str | AbstractMetric = "categorical",
    output_metric: float = 0.01,
    **overrides: Any,
) -> LLQRConfig:
    """Return settings with which a structure turns the base optimizer's update and leaves it its length.

    U acts on the update and keeps its norm per parameter (grafting), so the base optimizer's learning rate
    means what it means without U. Every fit starts from the identity, takes three steps of conjugate gradient
    on one batch, and is averaged with some ten fits before it: each sees one gradient, together they see
    their distribution. Fits that start from the last factors instead fit one gradient ever more closely, and
    do worse than no fit at all.

    Args:
        structure: a structure's name or object; Kronecker and EKFAC measured best.
        likelihood: loss type whose Fisher F is used, a name or a metric.
        output_metric: ε > 0 of C = Jᵀ(F + εI)J.
        **overrides: settings of :func:`llqr.config.configure` to change.

    Raises:
        ValueError: for unknown names, listing the known ones, or values out of range.
    """
    settings: dict[str, Any] = {
        "curvature": "fisher",
        "structure": structure,
        "inner_solver": ConjugateGradient(steps=SHAPING_STEPS),
        "update_interval": 20,
        "ema_decay": 0.9,
        "ema_debias": True,
        "warm_start": False,
        "apply_to": "update",
        "grafting": "norm",
    }
    if "curvature" not in overrides:
        fisher = {"likelihood": likelihood, "output_metric": output_metric}
        settings["curvature_options"] = fisher
    return configure(**{**settings, **overrides})
