"""The settings of a submission, and how they become a configuration once shapes are known.

A step is θ ← θ − η_t (U a + w θ): a is Adam's direction, U the preconditioner, w the decoupled weight decay
and η_t the schedule. The two rulesets differ in what sets the length:

* external tuning: warm-up and cosine from the workload's step hint times a tuned peak; U keeps the norm
  of a per parameter (:func:`llqr.presets.shaped`). For the structure ``"span"`` the rules of self-tuning
  hold, with tuned numbers in them: η_t is constant, and the decay is in units of 1/T;
* self-tuning: in the first fifth of the step hint T, U solves for the length of Adam's direction and of the
  raw gradient in every group of parameters; then one length, measured in the first tenth, falls linearly
  (:mod:`llqr.annealing`), and η_t = 1. What remains is fixed by rules without a workload's name in them. The
  decay of tensors of two axes or more is 15/T times t/T while lengths are solved for, which is little, then
  15/T times the share of the length that is left. Softmax losses are smoothed by 0.1 while lengths are solved
  for, so that the Fisher does not vanish when the network fits its data, and not afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import pi
from types import ModuleType
from typing import Any

from llqr._checks import check_fraction, check_not_negative, check_positive_int
from llqr.algoperf.curvatures import fisher
from llqr.algoperf.grouping import step_sizes
from llqr.algoperf.likelihoods import loss_name
from llqr.algoperf.planning import Plan
from llqr.annealing import Annealing
from llqr.backend import Array
from llqr.config import LLQRConfig, check_known, configure
from llqr.intervals import AdaptiveInterval
from llqr.metrics import AbstractMetric
from llqr.presets import GROWTH, SHAPING_STEPS, shaped
from llqr.ridge import AdaptiveRidge
from llqr.structures import Span

DIRECTIONS = ("update", "gradient")
MAX_GROUPS = 32
"""Groups of parameters with step sizes of their own; each has one per direction."""
FALLBACK_STEP = 1e-3
"""Length of Adam's direction until a first fit is taken into use, and for tensors too large to be in one."""
SHORTEST_LIMIT, LONGEST_LIMIT = 20, 100
"""Bounds of the limit on an adaptive interval, in steps."""
FULL_DECAY = 15.0
"""Largest weight decay of self-tuning, in units of one over the step hint."""
SMOOTHING = 0.1
"""Label smoothing of self-tuning, while step sizes are solved for."""
STRUCTURES = ("span", "diagonal", "kronecker", "ekfac")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """η_t: linear warm-up to a peak, then a cosine to zero.

    Attributes:
        peak: η at the end of the warm-up.
        warmup_steps: steps of the warm-up.
        total_steps: step at which η reaches zero; None to stay at the peak.
    """

    peak: float
    warmup_steps: int = 0
    total_steps: int | None = None

    def __call__(self, step: Any, numpy: ModuleType) -> Array:
        """Return η at a step ≥ 0; ``numpy`` is NumPy or ``jax.numpy``."""
        rising = (step + 1) / max(self.warmup_steps, 1)
        if self.total_steps is None:
            return self.peak * numpy.minimum(rising, 1.0)
        span = max(self.total_steps - self.warmup_steps, 1)
        position = numpy.clip((step - self.warmup_steps) / span, 0.0, 1.0)
        falling = 0.5 * (1.0 + numpy.cos(pi * position))
        return self.peak * numpy.where(step < self.warmup_steps, rising, falling)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training run.

    Attributes:
        schedule: η_t, None for 1.
        base_step: length of Adam's direction before U.
        beta1: Adam's decay of the mean.
        beta2: Adam's decay of the mean square.
        epsilon: Adam's ε.
        weight_decay: decoupled decay w, in units of η_t.
        decay_axes: fewest axes of a tensor that decays.
        decay_ramp: steps over which the decay rises from 0 to w; 0 for none. While a length is annealed, the
            decay is w times the share of it that is left.
        label_smoothing: passed to the workload's loss until a length is annealed.
        dropout_rate: passed to the workload's model, None for its default.
        gradient_clip: largest norm of the training gradient, None for none.
        structure: a name of :data:`STRUCTURES`.
        update_interval: steps between refreshes; None for as many as their cost asks for, which the span
            takes as a limit and adapts below it.
        refresh_share: share of the gradients that refreshes may take, if the interval is derived.
        output_metric: ε of C = Jᵀ(F + εI)J.
        annealing: when solved lengths give way to one that falls, None for never.
    """

    schedule: Schedule | None = None
    base_step: float = FALLBACK_STEP
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_axes: int = 0
    decay_ramp: int = 0
    label_smoothing: float = 0.0
    dropout_rate: float | None = None
    gradient_clip: float | None = None
    structure: str = "span"
    update_interval: int | None = None
    refresh_share: float = 0.05
    output_metric: float = 0.01
    annealing: Annealing | None = None

    def __post_init__(self) -> None:
        """Validate the settings that nothing else validates."""
        check_known("structure", self.structure, STRUCTURES)
        if self.update_interval is not None:
            check_positive_int("update_interval", self.update_interval)
        for name in ("beta1", "beta2", "label_smoothing"):
            check_fraction(name, getattr(self, name), 0.9)
        for name in ("base_step", "weight_decay", "output_metric", "refresh_share"):
            check_not_negative(name, getattr(self, name), 0.01)

    @property
    def is_span(self) -> bool:
        """Does U solve for lengths, rather than keep those of Adam's direction."""
        return self.structure == "span"

    def decay(self, step: Any, numpy: ModuleType) -> Array:
        """Return w at a step ≥ 0; ``numpy`` is NumPy or ``jax.numpy``."""
        share = numpy.ones(())
        if self.decay_ramp > 0:
            share = numpy.minimum(step / self.decay_ramp, 1.0)
        if self.annealing is not None:
            left = self.annealing.share(step, numpy.maximum)
            share = numpy.where(step < self.annealing.start, share, left)
        return self.weight_decay * share

    def smoothing(self, step: Any, numpy: ModuleType) -> Array:
        """Return the label smoothing at a step ≥ 0; ``numpy`` is NumPy or ``jax.numpy``."""
        annealed = self.annealing is not None and step >= self.annealing.start
        return self.label_smoothing * numpy.where(annealed, 0.0, 1.0)

    def left_share(self, step: Any, numpy: ModuleType) -> Array:
        """Return how much of its length the direction of tensors too large to be fitted keeps."""
        if self.annealing is None:
            return numpy.ones(())
        left = self.annealing.share(step, numpy.maximum)
        return numpy.where(step < self.annealing.start, 1.0, left)

    def products(self, names: Iterable[str]) -> int:
        """Return the curvature products of one refresh of the factors of these parameters."""
        if not self.is_span:
            return 2 * SHAPING_STEPS + 1
        names = list(names)
        structure = _span(names)
        return len({structure.owner(name) for name in names}) * len(DIRECTIONS)

    def config(
        self, names: Iterable[str], metric: AbstractMetric | None = None, plan: Plan | None = None
    ) -> LLQRConfig:
        """Return the configuration.

        Args:
            names: parameter names.
            metric: Fisher of the outputs; None before shapes are known (any will do for a first state).
            plan: how a refresh is computed; None likewise.
        """
        longest = SHORTEST_LIMIT
        if plan is not None:
            longest = plan.interval(self.refresh_share, SHORTEST_LIMIT, LONGEST_LIMIT)
        given = self.update_interval
        settings: dict[str, Any] = {"chunk_size": None if plan is None else plan.chunk_size}
        if metric is not None:
            stored = plan is None or plan.store_tangents
            settings["curvature"] = fisher(metric, self.output_metric, stored)
        if not self.is_span:
            interval = longest if given is None else given
            return shaped(self.structure, update_interval=interval, **settings)
        return configure(
            **{"curvature": "fisher", **settings},
            structure=_span(list(names)),
            inner_solver="direct",
            solver_options={"relative_ridge": AdaptiveRidge()},
            apply_to="update",
            update_interval=AdaptiveInterval(longest=longest) if given is None else given,
            ema_decay=0.5,
            ema_debias=True,
            growth=GROWTH,
            annealing=self.annealing,
            held_out=None if plan is None else plan.held_out,
        )


def _span(names: list[str]) -> Span:
    return step_sizes(names, directions=DIRECTIONS, max_groups=MAX_GROUPS)


def self_tuning(workload: Any, hyperparameters: Any = None) -> Recipe:
    """Return the recipe without hyperparameters.

    Args:
        workload: for its ``step_hint`` and loss type.
        hyperparameters: ignored.
    """
    steps = int(workload.step_hint)
    softmax = loss_name(workload.loss_type) == "SOFTMAX_CROSS_ENTROPY"
    return Recipe(
        weight_decay=FULL_DECAY / steps,
        decay_axes=2,
        decay_ramp=steps,
        label_smoothing=SMOOTHING if softmax else 0.0,
        annealing=Annealing(total_steps=steps),
    )


_FIELDS = (
    "learning_rate",
    "one_minus_beta1",
    "beta2",
    "weight_decay",
    "warmup_factor",
    "label_smoothing",
    "dropout_rate",
    "structure",
    "update_interval",
)


def external_tuning(workload: Any, hyperparameters: Any) -> Recipe:
    """Return the recipe of one point of the search space.

    Args:
        workload: for its ``step_hint``.
        hyperparameters: record with the fields of ``tuning_search_spaces/llqr.json``; the span adapts its
            interval and anneals, whatever ``update_interval`` and ``warmup_factor`` say.

    Raises:
        AttributeError: if a field is missing; the record's own, which may know the file it was read from.
        ValueError: if a field is out of range.
    """
    try:
        values = {name: getattr(hyperparameters, name) for name in _FIELDS}
    except AttributeError as error:
        error.add_note(
            f"hyperparameters must have the fields {', '.join(_FIELDS)}; add what is missing to "
            "tuning_search_space.json"
        )
        raise
    steps = int(workload.step_hint)
    common = {
        "beta1": 1.0 - values["one_minus_beta1"],
        "beta2": values["beta2"],
        "label_smoothing": values["label_smoothing"],
        "dropout_rate": values["dropout_rate"],
        "gradient_clip": getattr(hyperparameters, "grad_clip", None),
        "structure": values["structure"],
    }
    if values["structure"] == "span":
        return Recipe(
            **common,
            schedule=Schedule(peak=values["learning_rate"]),
            weight_decay=values["weight_decay"] / steps,
            decay_axes=2,
            decay_ramp=steps,
            annealing=Annealing(total_steps=steps),
        )
    return Recipe(
        **common,
        schedule=Schedule(
            peak=values["learning_rate"],
            warmup_steps=int(values["warmup_factor"] * steps),
            total_steps=steps,
        ),
        base_step=1.0,
        weight_decay=values["weight_decay"],
        update_interval=values["update_interval"],
    )
