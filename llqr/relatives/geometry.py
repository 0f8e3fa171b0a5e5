"""Geometries of a layer: the steepest direction of unit length, and the dual norm that measures noise.

For a norm ‖·‖ on a layer's step, the linear minimisation oracle gives the O with ‖O‖ ≤ 1 and ⟨B, O⟩ largest,
and ⟨B, O⟩ is the dual norm ‖B‖_*:

    spectral     ‖O‖ = σ_max(O)/s, s = 0.2 √max(m, n)   O = s U Vᵀ of B = U Σ Vᵀ   ‖B‖_* = s Σ_i σ_i
    Euclidean    ‖O‖ = ‖O‖₂/s, s = 0.2 √n               O = s B/‖B‖₂               ‖B‖_* = s ‖B‖₂
    sign         ‖O‖ = ‖O‖_∞/s, s = 0.2                 O = s sign B               ‖B‖_* = s ‖B‖₁

The lengths s give every O a root mean square of at most 0.2, that of a typical Adam step at the same rate.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from math import sqrt
from typing import Literal

from llqr._checks import check_positive_int
from llqr.backend import Array, Backend
from llqr.structures.base import size_of

RMS = 0.2
"""Largest root mean square of a direction."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic that Muon iterates: it sends singular values in (0, 1] to about 1 in five steps."""


@dataclass(frozen=True, kw_only=True)
class AbstractGeometry(abc.ABC):
    """A norm on a layer's step."""

    @property
    def group(self) -> str:
        """Name of the layers whose noise is compared with each other."""
        return type(self).__name__.lower()

    @abc.abstractmethod
    def direction(self, backend: Backend, value: Array) -> Array:
        """Return O, of the shape of ``value``; 0 where ``value`` is 0."""

    @abc.abstractmethod
    def dual_norm(self, backend: Backend, value: Array) -> Array:
        """Return ‖value‖_*, 0-d."""


@dataclass(frozen=True, kw_only=True)
class Spectral(AbstractGeometry):
    """Largest singular value, for matrices [m, n]: Muon's geometry.

    Attributes:
        method: ``"newton_schulz"`` (matrix products alone; singular values end up within about 0.7 … 1.2) or
            ``"exact"`` (eigenvalues of the smaller Gram matrix).
        steps: Newton-Schulz iterations, ≥ 1.
    """

    method: Literal["newton_schulz", "exact"] = "newton_schulz"
    steps: int = 5

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("steps", self.steps)
        if self.method not in ("newton_schulz", "exact"):
            raise ValueError(
                f'method must be "newton_schulz" or "exact", got {self.method!r}; '
                "the first needs no eigenvalues"
            )

    def direction(self, backend: Backend, value: Array) -> Array:
        """Return s U Vᵀ."""
        wide = value if value.shape[0] <= value.shape[1] else value.T
        polar = self._polar(backend, wide)
        return _length(value) * (polar if wide is value else polar.T)

    def dual_norm(self, backend: Backend, value: Array) -> Array:
        """Return s times the nuclear norm, as ⟨value, O⟩."""
        return (value * self.direction(backend, value)).sum()

    def _polar(self, backend: Backend, wide: Array) -> Array:
        """Return the orthogonal factor of a matrix with m ≤ n."""
        unit = wide / _safe(backend, backend.sqrt((wide * wide).sum()))
        if self.method == "exact":
            values, vectors = backend.eigh(unit @ unit.T)
            # Singular values below rounding carry no direction; they are left at 0.
            floor = 1e-14 * wide.shape[0]
            kept = backend.where(values > floor, values, backend.ones(values.shape, values))
            roots = backend.where(values > floor, 1.0 / backend.sqrt(kept), 0.0 * values)
            return (vectors * roots) @ (vectors.T @ unit)
        a, b, c = _COEFFICIENTS
        for _ in range(self.steps):
            gram = unit @ unit.T
            unit = a * unit + (b * gram + c * (gram @ gram)) @ unit
        return unit


@dataclass(frozen=True, kw_only=True)
class Euclidean(AbstractGeometry):
    """Euclidean norm, for vectors and whole layers."""

    def direction(self, backend: Backend, value: Array) -> Array:
        """Return s value/‖value‖₂."""
        return self._length(value) * value / _safe(backend, backend.sqrt((value * value).sum()))

    def dual_norm(self, backend: Backend, value: Array) -> Array:
        """Return s ‖value‖₂."""
        return self._length(value) * backend.sqrt((value * value).sum())

    def _length(self, value: Array) -> float:
        return RMS * sqrt(size_of(tuple(value.shape)))


@dataclass(frozen=True, kw_only=True)
class Sign(AbstractGeometry):
    """Largest entry: sign descent, for embeddings."""

    def direction(self, backend: Backend, value: Array) -> Array:
        """Return s sign(value)."""
        one, zero = backend.ones(value.shape, value), backend.zeros(value.shape, value)
        return RMS * (backend.where(value > 0.0, one, zero) - backend.where(value < 0.0, one, zero))

    def dual_norm(self, backend: Backend, value: Array) -> Array:
        """Return s ‖value‖₁."""
        return RMS * abs(value).sum()


def _length(value: Array) -> float:
    return RMS * sqrt(max(value.shape))


def _safe(backend: Backend, norm: Array) -> Array:
    """Return the norm, 1 where it vanishes."""
    return backend.where(norm > 0.0, norm, backend.ones((), norm))
