"""A ridge on the inner problem that follows what the steps really achieve.

The ridge ρ turns H into H + ρ D (:mod:`llqr.solvers.direct`). Small, it trusts the quadratic model of a few
examples; large, it shortens every direction on its own. With the fitted step δ on the curvature batch,

    q = (L(θ) − L(θ + δ)) / (−m(δ))

is the part of the promised decrease that comes true (Levenberg's and Marquardt's damping scaled by the
diagonal, with the usual ratio test). No scale of the loss enters, whatever the outputs mean.

The ridge does not pull the step sizes to zero but to the best step that has one size per kind of direction,
itself found with the ridge:

    c = (PᵀHP + ρ diag PᵀHP)⁻¹ Pᵀr,   s = (H + ρ D)⁻¹ (r + ρ D P c),   D_j = H_jj + τ h̄ ‖d_j‖²,

P [n, kinds] being 1 where a direction d_j is of a kind, and h̄ ≥ 0 the curvature per squared length along all
of its kind. Pulled to zero, a few blocks take the whole decrease and the others stand still; pulled together,
all of them learn. Without τ nothing would pull where there is no curvature: a bias in front of a
normalisation changes no output, and its gradient and curvature are rounding, whose quotient may be anything.

Noise bounds the ridge from below. Of r, the part

    ν = Σ_j (r_A − r)_j² / H_jj / Σ_j r_j² / H_jj,   r_A from every second example of the batch,

is noise (r_A − r varies as r does), and ρ ≥ min(1, κ ν). A batch that is all there is has ν = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from llqr._checks import check_positive
from llqr.backend import Array, Backend


def weighted_noise(backend: Backend, noise: Array, weight: float) -> Array:
    """Return min(1, w ν) for a share of noise ν, a 0-d array ≥ 0, and w > 0; ν counts as 1 if it is NaN."""
    share = backend.where(noise >= 0.0, noise, backend.ones((), noise))
    return -backend.maximum(-weight * share, -1.0)


@dataclass(frozen=True, kw_only=True)
class AdaptiveRidge:
    """ρ ← ρ/c if q > ``trusted``, ρ ← c ρ if q < ``doubted``.

    ρ ← c ρ as well, and the step is found again, if the loss rises: along the step itself, or along one that
    has not seen the whole batch (:mod:`llqr.holdout`). Costs two losses on the curvature batch, three with
    the latter, and one or two more for every step that is found again.

    Attributes:
        initial: ρ before the first fit, > 0.
        factor: c > 1.
        trusted: q above which the model deserves a smaller ridge.
        doubted: q below which it needs a larger one, > 0 and at most ``trusted``.
        smallest: lower bound on ρ without noise, > 0.
        largest: upper bound on ρ.
        noise_weight: κ > 0.
        mean_share: τ > 0.
    """

    initial: float = 2.0  # ρ₀
    factor: float = 4.0  # c
    trusted: float = 0.75
    doubted: float = 0.25
    smallest: float = 1e-4
    largest: float = 1e4
    noise_weight: float = 32.0  # κ
    mean_share: float = 1e-4  # τ

    def __post_init__(self) -> None:
        """Validate the settings."""
        for field in fields(self):
            check_positive(field.name, getattr(self, field.name))
        if not self.smallest <= self.initial <= self.largest:
            raise ValueError(
                "initial must lie between smallest and largest, got "
                f"{self.initial!r} outside [{self.smallest!r}, {self.largest!r}]; pass e.g. initial=1.0"
            )
        if self.doubted > self.trusted:
            raise ValueError(
                f"doubted must be at most trusted, got {self.doubted!r} and {self.trusted!r}; pass e.g. "
                "doubted=0.25, trusted=0.75"
            )
        if self.factor <= 1.0:
            raise ValueError(f"factor must be above 1, got {self.factor!r}; pass e.g. factor=4.0")

    def least(self, backend: Backend, ridge: Array, noise: Array) -> Array:
        """Return ρ, at least as large as the share ν of noise asks for; ν counts as 1 if it is NaN."""
        return backend.maximum(ridge, weighted_noise(backend, noise, self.noise_weight))

    def smaller(self, backend: Backend, ridge: Array) -> Array:
        """Return ρ/c, within the bounds."""
        return backend.maximum(ridge / self.factor, self.smallest)

    def larger(self, backend: Backend, ridge: Array) -> Array:
        """Return c ρ, within the bounds."""
        return -backend.maximum(-self.factor * ridge, -self.largest)

    def judged(
        self,
        backend: Backend,
        ridge: Array,
        gains: tuple[Array, Array],
        promised: Array,
        resolution: Array,
    ) -> tuple[Array, Array]:
        """Return the next ρ, and whether the step at hand is too bad to be used.

        Args:
            backend: array operations.
            ridge: ρ with which the step was found.
            gains: L(θ) − L(θ + δ), and the same along directions that have not seen the whole batch (or
                once more, if there are none); may be NaN or infinite.
            promised: −m(δ).
            resolution: differences of losses below this one are rounding; such a promise says nothing.
        """
        known = promised > resolution
        gain, other = gains
        # No comparison holds for NaN, which is as bad as can be.
        falls = (gain >= 0.0) & (other >= -resolution)
        good = (gain > self.trusted * promised) & falls
        fair = (gain >= self.doubted * promised) & falls
        moved = backend.where(fair, ridge, self.larger(backend, ridge))
        moved = backend.where(good, self.smaller(backend, ridge), moved)
        return backend.where(known, moved, ridge), known & ~falls


TRUSTED_RIDGE = AdaptiveRidge.factor * AdaptiveRidge.initial
"""R, the ridge at the start grown once, 8. A larger one says that the model does not hold very far."""
