"""A factor on all solved steps, which falls where they went too far and the loss has stopped falling.

Step sizes solved for on a handful of examples suit these and are too long for all others, and where the
length of a run is not known nothing falls in the end (:mod:`llqr.annealing`). The next fit can tell. With θ
the parameters now, a those at the fit before, and g the gradient of a batch that none of the steps between
has seen,

    h = ⟨g, θ − a⟩

is the slope of the loss at the end of the way they went: below zero they could have gone on, above it they
went too far. With ℓ the loss of that batch and ℓ̄ the mean of the losses at earlier fits, η multiplies U x:

    η ← min(1, η f^(1/recovery))                if h < 0,
    η ← max(smallest, η f^−min(k, patience))    if h > 0 and ℓ > ℓ̄, for the kth time without an h < 0.

Only signs count, so the rule has no scale. Neither sign would do alone. Where every example is seen once per
epoch, h is above zero too often: the noise of gradients sums to nothing over an epoch, so that of the
examples to come leans against that of the ones before, and with h alone steps die out while the loss still
falls. And ℓ alone says that something is wrong long after it is. Sources: the sign of a hypergradient (Baydin
et al., "Online Learning Rate Adaptation with Hypergradient Descent", arXiv 1703.04782); factors, and more of
them for repeated signs, as in Riedmiller and Braun's Rprop (1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from llqr._checks import check_positive, check_positive_int
from llqr.backend import Array, Backend, Tensors


class Multiplier(NamedTuple):
    """What changes.

    Attributes:
        value: η, 0-d, in [smallest, 1].
        failures: k, 0-d integer.
        level: ℓ̄, 0-d; 0 before the first loss.
        losses: how many losses are in ℓ̄, 0-d integer; those that are not finite are left out.
        anchor: a by name, the first parameters before the first fit; empty without a rule.
    """

    value: Array
    failures: Array
    level: Array
    losses: Array
    anchor: Tensors


@dataclass(frozen=True, kw_only=True)
class AdaptiveMultiplier:
    """The rule. Costs an inner product per fit, and the memory of the parameters once more.

    Attributes:
        factor: f > 1.
        recovery: fits with h < 0 that make up for one failure, ≥ 1.
        patience: failures up to which each weighs more than the one before, ≥ 1.
        smallest: lower bound on η, in (0, 1].
        memory: fits that ℓ̄ reaches back; until then it is the plain mean.
    """

    factor: float = 2.0  # f
    recovery: int = 6
    patience: int = 3
    smallest: float = 0.125
    memory: int = 5

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

    def following(
        self,
        backend: Backend,
        old: Multiplier,
        gradient: Tensors,
        parameters: Tensors,
        loss: Array,
    ) -> Multiplier:
        """Return what holds until the next fit.

        Args:
            backend: array operations.
            old: what held since the last one.
            gradient: g, names and shapes as in the anchor.
            parameters: θ, likewise.
            loss: ℓ, 0-d; NaN counts as above ℓ̄.
        """
        names = list(old.anchor)
        like, one = old.value, backend.integer(1, old.value)
        anchors = [old.anchor[name] for name in names]
        moved = [parameters[name] - anchor for name, anchor in zip(names, anchors, strict=True)]
        slope = backend.asarray(backend.dots([gradient[name] for name in names], moved).sum(), like)
        loss = backend.asarray(loss, like)
        known = backend.isfinite(loss)
        first = old.losses < 1
        # No comparison holds for NaN: an unknown slope changes nothing.
        good = slope < 0.0
        bad = (slope > 0.0) & ~first & ~(loss <= old.level)
        failures = backend.where(bad, old.failures + one, old.failures)
        weight = -backend.maximum(-backend.asarray(failures, like), -float(self.patience))
        grown = -backend.maximum(-(self.factor ** (1.0 / self.recovery)) * like, -1.0)
        fallen = backend.maximum(like * self.factor ** (-weight), self.smallest)
        value = backend.where(good, grown, backend.where(bad, fallen, like))
        seen = backend.where(known, old.losses + one, old.losses)
        share = backend.maximum(1.0 / backend.asarray(old.losses + one, like), 1.0 / self.memory)
        level = backend.where(known, (1.0 - share) * old.level + share * loss, old.level)
        return Multiplier(
            value=value,
            failures=backend.where(good, 0 * failures, failures),
            level=level,
            losses=seen,
            anchor={name: parameters[name] for name in names},
        )


def initial(backend: Backend, parameters: Tensors, like: Array) -> Multiplier:
    """Return what there is before the first fit.

    Args:
        backend: array operations.
        parameters: θ, none without a rule; kept as they are.
        like: gives η's dtype.
    """
    zero = backend.integer(0, like)
    return Multiplier(
        value=backend.ones((), like),
        failures=zero,
        level=0.0 * backend.ones((), like),
        losses=zero,
        anchor=parameters,
    )


def check_anchor(
    rule: AdaptiveMultiplier | None,
    shapes: Mapping[str, tuple[int, ...]],
    anchor: Mapping[str, Array],
) -> None:
    """Raise unless a state holds the parameters that a rule keeps, or none without one.

    Args:
        rule: of the configuration.
        shapes: of the parameters, by name.
        anchor: of the state.

    Raises:
        ValueError: if it does not.
    """
    expected = {} if rule is None else dict(shapes)
    found = {name: tuple(value.shape) for name, value in anchor.items()}
    if found != expected:
        raise ValueError(
            "state is of another configuration: its multiplier must keep "
            f"{len(expected)} parameters of the shapes {expected}, got {found}; use the configuration it was "
            "made with"
        )
