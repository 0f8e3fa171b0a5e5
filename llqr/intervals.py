"""When the factors are fitted again: after a number of steps, on a schedule, or when they no longer suit.

The adaptive rule compares, at every fit, the factors in use with the fitted ones on the same quadratic model.
While the old ones still reach a good part of the decrease that the new ones promise, m(old) ≤ κ m(new), fits
are too frequent and the interval grows by half; once they reach less than half of that part it is halved.
Only ratios of m enter, so the rule has no scale to tune. Where noise makes every fit look new, the cost is
bounded all the same: the shortest interval grows by one every

    (1 − ω) exact_patience + ω patience,   ω = min(1, w ν),

steps, ν being the share of noise that the fit found (:mod:`llqr.ridge`), 1 where it is not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llqr._checks import check_fraction, check_positive, check_positive_int, is_number
from llqr.backend import Array, Backend
from llqr.ridge import weighted_noise

Schedule = Callable[[Any], Any]
"""A function of a step or fit counter; under JAX it sees and returns traced arrays."""


@dataclass(frozen=True, kw_only=True)
class AdaptiveInterval:
    """Steps between fits that follow how fast the solution moves; starts at 1.

    Attributes:
        longest: upper bound on the interval in steps, ≥ 1.
        kept: κ in [0, 1), the part of the new factors' decrease the old ones must reach for the interval
            to grow.
        patience: steps after which the shortest interval is one longer, ≥ 1, where gradients are noisy.
        exact_patience: the same where they are exact, ≥ 1.
        noise_weight: w > 0.
    """

    longest: int = 20
    kept: float = 0.5  # κ
    patience: int = 50
    exact_patience: int = 50
    noise_weight: float = 32.0  # w

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("longest", "patience", "exact_patience"):
            check_positive_int(name, getattr(self, name))
        check_positive("noise_weight", self.noise_weight)
        check_fraction("kept", self.kept, 0.5)

    def next(
        self,
        backend: Backend,
        current: Array,
        old: Array,
        new: Array,
        step: Array,
        noise: Array | None = None,
    ) -> Array:
        """Return the steps to the next fit, a 0-d integer.

        Args:
            backend: array operations.
            current: steps between the last two fits.
            old: m at the factors that were in use; NaN or 0 if they say nothing.
            new: m at the fitted factors, ≤ ``old``.
            step: the current step.
            noise: ν of the fit, None where it is not known; NaN counts as 1.
        """
        suits = (old <= self.kept * new) & (new < 0.0)
        partly = (old <= 0.5 * self.kept * new) & (new < 0.0)
        value = backend.where(partly, current, current // 2)
        value = backend.where(suits, current + current // 2 + 1, value)
        shortest = 1 + self._times_patience(backend, step, noise)
        value = backend.where(value < shortest, shortest, value)
        longest = backend.integer(self.longest, current)
        return backend.where(value < longest, value, longest)

    def _times_patience(self, backend: Backend, step: Array, noise: Array | None) -> Array:
        """Return how many times the patience lies in the steps so far, a 0-d integer."""
        if noise is None or self.patience == self.exact_patience:
            return step // self.patience
        share = weighted_noise(backend, noise, self.noise_weight)
        patience = (1.0 - share) * self.exact_patience + share * self.patience
        return backend.integer(backend.asarray(step, noise) / patience, step)


Interval = int | Schedule | AdaptiveInterval


def scheduled(backend: Backend, value: int | Schedule, step: Array) -> Array:
    """Return a fixed or scheduled number of steps to the next fit, a 0-d integer.

    Args:
        backend: array operations.
        value: the number, or a schedule of the step.
        step: the current step.

    Raises:
        ValueError: if the schedule returns a plain number below 1.
    """
    number: Any = value(step) if callable(value) else value
    if callable(value) and is_number(number) and number < 1:  # a traced value cannot be checked
        check_positive_int("the value of update_interval's schedule", number)
    return backend.integer(number, step)
