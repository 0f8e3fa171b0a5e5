"""The two methods: the base optimizer alone, and LLQR around it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llqr import divergences
from llqr.config import LLQRConfig
from llqr.curvature import gauss_newton
from llqr.solvers import ConjugateGradient, DirectSolve
from llqr.structures import Dense, Span
from scripts.demo_job.tasks import Task


@dataclass(frozen=True)
class GrowingInterval:
    """Steps between fits: 1 at first, one more every ``growth`` steps, at most ``longest``.

    The first steps change the network most, and step sizes fitted for one of them do not fit the tenth.
    """

    longest: int
    growth: int

    def __call__(self, step: Any) -> Any:
        """Return min(longest, 1 + step // growth) for a number, a tensor or a traced array."""
        grown = 1 + step // self.growth
        return (self.longest + grown - abs(self.longest - grown)) // 2


METHODS = ("base", "llqr")

_METRICS = {
    "cross_entropy": divergences.Categorical(),
    "reconstruction": divergences.Bernoulli(reduction="examples"),
    "least_squares": divergences.Gaussian(reduction="examples"),
}


def hidden_name(index: int) -> str:
    """Return the name under which a network gives the activations of a hidden layer."""
    return f"hidden_{index}"


def learning_rate(task: Task, method: str) -> float:
    """Return what Adam is given: alone the tuned rate, inside LLQR the same number on every task."""
    return task.learning_rate if method == "base" else task.llqr.base_learning_rate


def llqr_config(task: Task) -> LLQRConfig:
    """Return the configuration of LLQR for a task.

    The span's step sizes are solved for afresh on the directions at hand, so the scale of the base
    optimizer's update, and with it the learning rate, drops out. Each fit starts from the identity
    because a direct solve has no use for a start.
    """
    settings = task.llqr
    if settings.structure == "span":
        structure = Span(per="parameter", directions=("update", "gradient"), floor=0.0)
        solver = DirectSolve(relative_ridge=settings.relative_ridge)
    else:
        structure, solver = Dense(), ConjugateGradient(steps=4)
    curvature = gauss_newton(_METRICS[task.loss], output_metric=settings.output_metric)
    if settings.hidden_metric:
        bound = divergences.Gaussian(precision=settings.hidden_metric, reduction="examples")
        names = [hidden_name(index) for index in range(len(task.layers) - 2)]
        curvature = replace(curvature, intermediate=dict.fromkeys(names, bound))
    return LLQRConfig(
        curvature=curvature,
        structure=structure,
        inner_solver=solver,
        update_interval=GrowingInterval(settings.update_interval, settings.interval_growth)
        if settings.interval_growth
        else settings.update_interval,
        curvature_batch_size=settings.curvature_batch_size,
        ema_decay=settings.ema_decay,
        ema_debias=True,
        warm_start=False,
        apply_to="update",
    )
