"""The settings of a submission, and how they become a configuration once shapes are known.

A step is θ ← θ − η_t (U a + w_t θ): a is Adam's direction, U the preconditioner, w_t the decoupled weight
decay (:mod:`llqr.algoperf.decay`) and η_t the schedule. :mod:`llqr.algoperf.rulesets` says what the two
rulesets make of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import pi
from types import ModuleType
from typing import Any

from llqr._checks import check_fraction, check_not_negative, check_positive_int
from llqr.algoperf.curvatures import fisher
from llqr.algoperf.decay import AbstractDecay, ConstantDecay
from llqr.algoperf.grouping import step_sizes
from llqr.algoperf.planning import LONGEST_PATIENCE, Plan
from llqr.annealing import Annealing
from llqr.backend import Array
from llqr.config import LLQRConfig, check_known, configure
from llqr.intervals import AdaptiveInterval
from llqr.metrics import AbstractMetric
from llqr.multiplier import AdaptiveMultiplier
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
        decay: decoupled weight decay w_t, in units of η_t.
        label_smoothing: passed to the workload's loss, until half of the annealing is over if there is one.
        dropout_rate: passed to the workload's model, None for its default.
        gradient_clip: largest norm of the training gradient, None for none.
        structure: a name of :data:`STRUCTURES`.
        update_interval: steps between refreshes; None for as many as their cost asks for, which the span
            takes as a limit and adapts below it.
        refresh_share: share of the gradients that refreshes may take, if the interval is derived.
        output_metric: ε of C = Jᵀ(F + εI)J.
        annealing: when solved lengths give way to ones that fall, None for never.
    """

    schedule: Schedule | None = None
    base_step: float = FALLBACK_STEP
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    decay: AbstractDecay = field(default_factory=ConstantDecay)
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
        for name in ("base_step", "output_metric", "refresh_share"):
            check_not_negative(name, getattr(self, name), 0.01)

    @property
    def is_span(self) -> bool:
        """Does U solve for lengths, rather than keep those of Adam's direction."""
        return self.structure == "span"

    def smoothing(self, step: Any, numpy: ModuleType) -> Array:
        """Return the label smoothing at a step ≥ 0; ``numpy`` is NumPy or ``jax.numpy``."""
        over = self.annealing is not None and step >= self.annealing.middle
        return self.label_smoothing * numpy.where(over, 0.0, 1.0)

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
        longest, patience = SHORTEST_LIMIT, LONGEST_PATIENCE
        if plan is not None:
            longest = plan.interval(self.refresh_share, SHORTEST_LIMIT, LONGEST_LIMIT)
            patience = plan.patience
        given = self.update_interval
        settings: dict[str, Any] = {"chunk_size": None if plan is None else plan.chunk_size}
        if metric is not None:
            stored = plan is None or plan.store_tangents
            settings["curvature"] = fisher(metric, self.output_metric, stored)
        if not self.is_span:
            return shaped(
                self.structure, update_interval=longest if given is None else given, **settings
            )
        adaptive = AdaptiveInterval(
            longest=longest, patience=patience, exact_patience=LONGEST_PATIENCE
        )
        return configure(
            **{"curvature": "fisher", **settings},
            structure=_span(list(names)),
            inner_solver="direct",
            solver_options={"relative_ridge": AdaptiveRidge()},
            apply_to="update",
            update_interval=adaptive if given is None else given,
            ema_decay=0.5,
            ema_debias=True,
            growth=GROWTH,
            annealing=self.annealing,
            multiplier=AdaptiveMultiplier(slopes=False),
            held_out=None if plan is None else plan.held_out,
        )


def _span(names: list[str]) -> Span:
    return step_sizes(names, directions=DIRECTIONS, max_groups=MAX_GROUPS)
