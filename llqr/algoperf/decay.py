"""Decoupled weight decay: w_t of θ ← θ − η_t (U a + w_t θ).

With a decay of w the weights are an average of the updates of the last 1/w steps, its *memory* (Wang and
Aitchison, "How to set AdamW's weight decay as you scale model and dataset size", arXiv 2405.13698). What
the best memory is depends on how often the data are seen: counted in epochs it changes little between tasks
that are trained for many, where a decay in units of the run's length is too strong for some and too weak
for others. A run of few epochs remembers a share of itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from llqr._checks import check_not_negative
from llqr.annealing import Annealing
from llqr.backend import Array

MEMORY = 40.0
"""Memory of an annealed decay where its length is longest, in epochs."""
LEAST, MOST = 5.0, 30.0
"""Bounds of an annealed decay there, in units of one over the length of the run."""
RISE = 15.0
"""w_t = `RISE` t/T² while step sizes are solved for."""


class AbstractDecay(Protocol):
    """w_t, and which tensors have it."""

    @property
    def axes(self) -> int:
        """Fewest axes of a tensor that decays."""
        ...

    def __call__(self, step: Any, numpy: ModuleType, epoch: Any) -> Array:
        """Return w_t.

        Args:
            step: t ≥ 0, a number or an array.
            numpy: NumPy or ``jax.numpy``.
            epoch: steps in which all training examples are seen once, > 0.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ConstantDecay:
    """w_t = ``rate`` for every tensor.

    Attributes:
        rate: w ≥ 0.
        axes: fewest axes of a tensor that decays.
    """

    rate: float = 0.0
    axes: int = 0

    def __post_init__(self) -> None:
        """Validate the rate."""
        check_not_negative("weight_decay", self.rate, 0.01)

    def __call__(self, step: Any, numpy: ModuleType, epoch: Any) -> Array:
        """Return w_t, whatever the step."""
        return self.rate * numpy.ones(())


@dataclass(frozen=True, kw_only=True)
class AnnealedDecay:
    """Little while step sizes are solved for; then as much as a memory of so many epochs asks for.

        w_t = s · 15 t/T²,                                        while step sizes are solved for,
        w_t = s · η_t · clip(1 / (40 epochs), 5/T, 30/T),         with η_t of the annealing, from then on.

    Attributes:
        annealing: when it begins, T and η_t.
        strength: s ≥ 0.
        axes: fewest axes of a tensor that decays; 2 leaves biases and scales alone.
    """

    annealing: Annealing
    strength: float = 1.0
    axes: int = 2

    def __post_init__(self) -> None:
        """Validate the strength."""
        check_not_negative("weight_decay", self.strength, 1.0)

    def __call__(self, step: Any, numpy: ModuleType, epoch: Any) -> Array:
        """Return w_t."""
        total = self.annealing.total_steps
        rising = RISE / total * (step / total)  # T² would not fit into 32 bits
        longest = numpy.clip(1.0 / (MEMORY * epoch), LEAST / total, MOST / total)
        left = self.annealing.share(step, numpy.maximum)
        return self.strength * numpy.where(step < self.annealing.start, rising, longest * left)
