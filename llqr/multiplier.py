"""A factor on all solved steps, which falls where they went too far.

Step sizes solved for on a handful of examples suit these and may be too long for all others. The next fit
can tell, from a batch that none of the steps since the last one has seen. With θ the parameters now, a those
at the last fit, and g and ℓ the gradient and the loss of that batch,

    h = ⟨g, θ − a⟩

is the slope of the loss at the end of the way they went: below zero they could have gone on, above it they
went too far. With ℓ̄ the mean of the losses at earlier fits, ℓ₋ the last and ℓ₀ the first of them, and ρ the
ridge with which the steps were found (:mod:`llqr.ridge`), a fit finds one of two failures:

    overshot    h > 0 and ℓ > ℓ̄,
    lost        ℓ > ℓ₀, ℓ > ℓ₋ and ρ ≤ R.

η multiplies U x:

    η ← max(smallest, η f^−min(k, patience))    after a failure, the kth without an h < 0 in between,
    η ← min(1, η f^(1/recovery))                without one, if h < 0.

Where all that was learned is lost, the next fit is made at the next step, too. (With ρ > R the ridge itself
has already shortened the steps, and the loss is above ℓ₀ for the sake of earlier ones.)

Only comparisons count, so the rule has no scale. Neither h > 0 nor ℓ > ℓ̄ would do alone. Where every example
is seen once per epoch, h is above zero too often: the noise of gradients sums to nothing over an epoch, so
that of the examples to come leans against that of the ones before, and with h alone steps die out while the
loss still falls. And ℓ alone says that something is wrong long after it is.

Where the end of the run anneals (:mod:`llqr.annealing`), noise needs no answer before, and the rule may do
without slopes: a is not kept and h counts as negative. Annealed lengths are multiplied by η as well.

Sources: the sign of a hypergradient (Baydin et al., "Online Learning Rate Adaptation with Hypergradient
Descent", arXiv 1703.04782); factors, and more of them for repeated signs, as in Riedmiller and Braun's Rprop
(1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llqr._checks import check_positive, check_positive_int
from llqr.backend import Array, Backend, Tensors
from llqr.ridge import TRUSTED_RIDGE


class Multiplier(NamedTuple):
    """What changes.

    Attributes:
        value: η, 0-d, in [smallest, 1].
        failures: k, 0-d integer.
        first: ℓ₀, 0-d; 0 before the first loss.
        last: ℓ₋, likewise.
        level: ℓ̄, likewise.
        losses: how many there were, 0-d integer; those that are not finite are left out.
        anchor: a by name, the first parameters before the first fit; empty without slopes.
    """

    value: Array
    failures: Array
    first: Array
    last: Array
    level: Array
    losses: Array
    anchor: Tensors


@dataclass(frozen=True, kw_only=True)
class AdaptiveMultiplier:
    """The rule. Slopes cost an inner product per fit, and the memory of the parameters once more.

    Attributes:
        factor: f > 1.
        recovery: fits with h < 0 that make up for one failure, ≥ 1.
        patience: failures up to which each weighs more than the one before, ≥ 1.
        smallest: lower bound on η, in (0, 1].
        memory: fits that ℓ̄ reaches back; until then it is the plain mean.
        slopes: is h computed, for which a is kept; without, h counts as negative.
    """

    factor: float = 2.0  # f
    recovery: int = 6
    patience: int = 3
    smallest: float = 0.125
    memory: int = 5
    slopes: bool = True

    def __post_init__(self) -> None:
        """Validate the settings."""
        for name in ("factor", "smallest"):
            check_positive(name, getattr(self, name))
        for name in ("recovery", "patience", "memory"):
            check_positive_int(name, getattr(self, name))
        if self.factor <= 1.0:
            raise ValueError(f"factor must be above 1, got {self.factor!r}; pass e.g. factor=2.0")
        if self.smallest > 1.0:
            raise ValueError(
                f"smallest must be at most 1, got {self.smallest!r}; pass e.g. smallest=0.125"
            )

    def loses(self, backend: Backend, old: Multiplier, loss: Array, ridge: Array | None) -> Array:
        """Return whether all that was learned is lost, 0-d; False at the first fit.

        Args:
            backend: array operations.
            old: what held since the last fit.
            loss: ℓ, 0-d; NaN counts as above any other.
            ridge: ρ, 0-d; None if it does not adapt.
        """
        loss = backend.asarray(loss, old.value)
        rises = (old.losses > 0) & ~(loss <= old.first) & ~(loss <= old.last)
        return rises if ridge is None else rises & (ridge <= TRUSTED_RIDGE)

    def following(
        self,
        backend: Backend,
        old: Multiplier,
        gradient: Tensors,
        parameters: Tensors,
        loss: Array,
        ridge: Array | None = None,
    ) -> Multiplier:
        """Return what holds until the next fit.

        Args:
            backend: array operations.
            old: what held since the last one.
            gradient: g, names and shapes as in the anchor.
            parameters: θ, likewise.
            loss: ℓ, 0-d; NaN counts as above any other.
            ridge: ρ, 0-d; None if it does not adapt.
        """
        like, one = old.value, backend.integer(1, old.value)
        loss = backend.asarray(loss, like)
        slope = -backend.ones((), like)
        if self.slopes:
            slope = backend.asarray(_slope(backend, old.anchor, gradient, parameters), like)
        # No comparison holds for NaN: an unknown slope says nothing, an unknown loss is as bad as can be.
        overshot = (slope > 0.0) & (old.losses > 0) & ~(loss <= old.level)
        bad = overshot | self.loses(backend, old, loss, ridge)
        good = (slope < 0.0) & ~bad
        failures = backend.where(bad, old.failures + one, old.failures)
        weight = -backend.maximum(-backend.asarray(failures, like), -float(self.patience))
        grown = -backend.maximum(-(self.factor ** (1.0 / self.recovery)) * like, -1.0)
        fallen = backend.maximum(like * self.factor ** (-weight), self.smallest)
        known = backend.isfinite(loss)
        share = backend.maximum(1.0 / backend.asarray(old.losses + one, like), 1.0 / self.memory)
        return Multiplier(
            value=backend.where(good, grown, backend.where(bad, fallen, like)),
            failures=backend.where(good, 0 * failures, failures),
            first=backend.where(known & (old.losses < 1), loss, old.first),
            last=backend.where(known, loss, old.last),
            level=backend.where(known, (1.0 - share) * old.level + share * loss, old.level),
            losses=backend.where(known, old.losses + one, old.losses),
            anchor={name: parameters[name] for name in old.anchor},
        )


def _slope(backend: Backend, anchor: Tensors, gradient: Tensors, parameters: Tensors) -> Array:
    """Return h."""
    moved = [parameters[name] - value for name, value in anchor.items()]
    return backend.dots([gradient[name] for name in anchor], moved).sum()


def initial(backend: Backend, parameters: Tensors, like: Array) -> Multiplier:
    """Return what there is before the first fit.

    Args:
        backend: array operations.
        parameters: θ, none without slopes; kept as they are.
        like: gives η's dtype.
    """
    zero, one = backend.integer(0, like), backend.ones((), like)
    return Multiplier(
        value=one,
        failures=zero,
        first=0.0 * one,
        last=0.0 * one,
        level=0.0 * one,
        losses=zero,
        anchor=parameters,
    )


def keeps_parameters(rule: AdaptiveMultiplier | None) -> bool:
    """Does a rule, if there is one, take slopes, which needs the parameters of the last fit."""
    return rule is not None and rule.slopes


def check_anchor(
    rule: AdaptiveMultiplier | None,
    shapes: Mapping[str, tuple[int, ...]],
    anchor: Mapping[str, Array],
) -> None:
    """Raise unless a state holds the parameters that a rule keeps, or none if it keeps none.

    Args:
        rule: of the configuration.
        shapes: of the parameters, by name.
        anchor: of the state.

    Raises:
        ValueError: if it does not.
    """
    expected = dict(shapes) if keeps_parameters(rule) else {}
    found = {name: tuple(value.shape) for name, value in anchor.items()}
    if found != expected:
        raise ValueError(
            "state is of another configuration: its multiplier must keep "
            f"{len(expected)} parameters of the shapes {expected}, got {found}; use the configuration it was "
            "made with"
        )
