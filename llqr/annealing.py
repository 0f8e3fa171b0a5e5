"""The end of a long run: from solved step sizes to lengths that fall to nothing.

A step size solved for is best for the next step. Over a long run that is short-sighted: it stays small where
the loss is curved, and what longer steps would have found is never reached. From a share of the run on, U is

    (U x)_g = c_g η_t x_g

in every block g, one multiple of what U acts on (the base optimizer's update). What c_g is, the fits of the
run's beginning measure (:mod:`llqr.lengths`). η_t rises within a few steps and falls linearly; nothing is
fitted any more. Steps much longer than those before are shortened (:mod:`llqr.pace`), and all are if steps of
the beginning went too far (:mod:`llqr.multiplier`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Any

from llqr._checks import (
    check_at_least_one,
    check_fraction,
    check_positive,
    check_positive_int,
)
from llqr.backend import Array, Backend

NEVER = 2**31 - 1
"""A step that is not reached, where the next fit is when there is none."""


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """When it begins, which fits measure lengths, and how η_t falls.

    Attributes:
        total_steps: length of the run T, ≥ 1; η_t has fallen to ``least`` there and stays.
        solved: share of the run with solved step sizes, in (0, 1).
        measured: share of the run whose fits measure lengths, in (0, 1) and at most ``solved``.
        warmup: share of the run over which η_t rises to 1, in [0, 1).
        noise_weight: w > 0 of κ_k (:mod:`llqr.lengths`).
        least: smallest η_t, in [0, 1).
        growth: κ ≥ 1, how many times as long as the mean of those before an annealed step may be, its η_t
            left aside (:mod:`llqr.pace`).
        memory: K, steps that this mean reaches back, ≥ 1.
    """

    total_steps: int  # T
    solved: float = 0.2
    measured: float = 0.1
    warmup: float = 0.02
    noise_weight: float = 8.0  # w
    least: float = 0.01
    growth: float = 3.0  # κ
    memory: int = 30  # K

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("total_steps", "memory"):
            check_positive_int(name, getattr(self, name))
        check_at_least_one("growth", self.growth)
        for name in ("solved", "measured", "warmup", "least"):
            check_fraction(name, getattr(self, name), 0.1)
        check_positive("noise_weight", self.noise_weight)
        if not 0.0 < self.measured <= self.solved:
            raise ValueError(
                "measured must be above 0 and at most solved, got "
                f"{self.measured!r} and {self.solved!r}; pass e.g. measured=0.1, solved=0.2"
            )

    @property
    def start(self) -> int:
        """First annealed step, ≥ 1: the first fit is always made."""
        return max(1, round(self.solved * self.total_steps))

    @property
    def middle(self) -> int:
        """First step of its second half."""
        return (self.start + self.total_steps + 1) // 2

    def share(self, step: Any, maximum: Callable[[Any, Any], Any]) -> Any:
        """Return η_t for an annealed step.

        Args:
            step: t ≥ ``start``, a number or an array.
            maximum: elementwise maximum of two numbers of that kind.
        """
        since = step - self.start
        rising = -maximum(-(since + 1) / max(1.0, self.warmup * self.total_steps), -1.0)
        falling = maximum(1.0 - since / max(1, self.total_steps - self.start), self.least)
        return rising * falling

    @property
    def measured_until(self) -> int:
        """First step, ≥ 1, at which a fit no longer measures lengths."""
        return floor(self.measured * self.total_steps) + 1

    def next_fit(self, backend: Backend, due: Array) -> Array:
        """Return the step of the next fit, :data:`NEVER` if it would be an annealed one."""
        return backend.where(due < self.start, due, backend.integer(NEVER, due))
