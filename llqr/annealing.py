"""The end of a long run: from solved step sizes to one length that falls to nothing.

A step size solved for is best for the next step. Over a long run that is short-sighted: it stays small where
the loss is curved, and what longer steps would have found is never reached. From a share of the run on, U is

    U = c η_t I,   c = (Π_k κ_k c_k)^(1/K),   c_k = argmin_c m_k(−c x),   κ_k = 1 + min(1, w ν_k),

one multiple of what U acts on (the base optimizer's update): c_k is the best one at the k-th fit, and the
mean is over the fits of the run's beginning. κ = 1 is the length with the lowest loss after one step, and
from 2 on the quadratic model rises (compare "Stepping on the Edge: Curvature Aware Learning Rate Tuners",
arXiv 2407.06183). In between, noisy gradients want longer steps, and exact ones near
interpolation do not: ν_k is the share of noise that the k-th fit found (:mod:`llqr.ridge`); where it is not
known κ_k is 1.5. η_t rises within a few steps and falls linearly; nothing is fitted any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llqr._checks import check_fraction, check_positive, check_positive_int
from llqr.backend import Array, Backend
from llqr.ridge import weighted_noise

NEVER = 2**31 - 1
"""A step that is not reached, where the next fit is when there is none."""


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """When it begins, which fits measure c, and how η_t falls.

    Attributes:
        total_steps: length of the run T, ≥ 1; η_t has fallen to ``least`` there and stays.
        solved: share of the run with solved step sizes, in (0, 1).
        measured: share of the run whose fits measure c, in (0, 1) and at most ``solved``.
        warmup: share of the run over which η_t rises to 1, in [0, 1).
        noise_weight: w > 0.
        least: smallest η_t, in [0, 1).
    """

    total_steps: int  # T
    solved: float = 0.2
    measured: float = 0.1
    warmup: float = 0.02
    noise_weight: float = 8.0  # w
    least: float = 0.01

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("total_steps", self.total_steps)
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

    def length(self, backend: Backend, mean: Array, step: Array) -> Array:
        """Return c η_t, in the dtype of ``mean``, which is c."""
        step = backend.asarray(step, mean)
        return mean * self.share(step, backend.maximum)

    def measures(self, step: Array) -> Array:
        """Return a 0-d boolean: does a fit at this step measure c."""
        return step <= self.measured * self.total_steps

    def mean(
        self,
        backend: Backend,
        mean: Array,
        counted: Array,
        along: tuple[Array, Array],
        noise: Array | None,
    ) -> tuple[Array, Array]:
        """Return the geometric mean with one more κ_k c_k, and the number K of those in it.

        Args:
            backend: array operations.
            mean: of those before, 1 if there are none.
            counted: their number.
            along: ⟨x, g⟩ and ⟨x, (C + λI) x⟩; c_k is their ratio, and counts where both are positive.
            noise: ν_k, None where it is not known; NaN counts as 1.
        """
        slope, curvature = (backend.asarray(value, mean) for value in along)
        one = backend.ones((), mean)
        convex = curvature > 0.0
        found = slope / backend.where(convex, curvature, one)
        found = found * self._beyond(backend, one, noise)
        counts = convex & (found > 0.0) & backend.isfinite(found)
        number = backend.asarray(counted, mean) + 1.0
        joined = mean ** ((number - 1.0) / number) * backend.where(counts, found, one) ** (
            1.0 / number
        )
        more = backend.where(counts, counted + 1, counted)
        return backend.where(counts, joined, mean), more

    def _beyond(self, backend: Backend, one: Array, noise: Array | None) -> Array:
        """Return κ_k."""
        if noise is None:
            return 1.5 * one
        return one + weighted_noise(backend, backend.asarray(noise, one), self.noise_weight)

    def next_fit(self, backend: Backend, due: Array) -> Array:
        """Return the step of the next fit, :data:`NEVER` if it would be an annealed one."""
        return backend.where(due < self.start, due, backend.integer(NEVER, due))
