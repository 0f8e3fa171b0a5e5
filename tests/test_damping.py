"""Damping λ = ‖g‖/γ and its accept/double, reject/halve rule (arXiv 2506.13710)."""

import math

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.damping import ConstantDamping, GradientNormDamping

BACKEND = NumpyBackend()


def test_value_is_the_gradient_norm_over_gamma():
    gradient = {"a": np.array([3.0, 0.0]), "b": np.array(4.0)}
    value = GradientNormDamping().value(BACKEND, gradient, np.asarray(2.0))
    assert float(value) == 2.5


def test_acceptance_is_the_stated_inequality():
    rule = GradientNormDamping()
    gradient = {"a": np.array([2.0])}  # ‖∇L(θ + δ)‖² = 4, λ = 0.25: threshold 4 / 2 = 2
    for decrease, accepted in ((2.0, True), (2.1, True), (1.9, False), (-1.0, False)):
        loss, new_loss = np.asarray(5.0), np.asarray(5.0 - decrease)
        assert bool(rule.accepts(BACKEND, np.asarray(0.25), loss, new_loss, gradient)) is accepted


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_losses_are_not_accepted(bad):
    rule = GradientNormDamping()
    gradient = {"a": np.array([0.0])}
    arguments = (BACKEND, np.asarray(1.0), np.asarray(1.0), np.asarray(bad), gradient)
    assert not rule.accepts(*arguments)
    with_bad_gradient = {"a": np.array([bad])}
    good = (BACKEND, np.asarray(1.0), np.asarray(1.0), np.asarray(0.0))
    assert not rule.accepts(*good, with_bad_gradient)


def test_gamma_doubles_halves_and_stays_within_bounds():
    rule = GradientNormDamping(smallest=0.5, largest=3.0)
    yes, no = np.asarray(True), np.asarray(False)
    assert float(rule.adapted(BACKEND, np.asarray(1.0), yes)) == 2.0
    assert float(rule.adapted(BACKEND, np.asarray(1.2), no)) == 0.6
    assert float(rule.adapted(BACKEND, np.asarray(2.0), yes)) == 3.0
    assert float(rule.adapted(BACKEND, np.asarray(0.6), no)) == 0.5


def test_the_rule_on_a_quadratic_where_it_is_known():
    """L = ½ h θ² with the exact Hessian: after a step, ∇L = λ h θ/(h + λ), and every γ is accepted.

    L(θ) − L(θ⁺) = ½ h θ² (1 − ρ²) with ρ = λ/(h + λ), and ‖∇L(θ⁺)‖²/(8 λ) = h² ρ² θ²/(8 λ); the first
    exceeds the second for every λ > 0, since 4 λ (1 − ρ²) ≥ h ρ².
    """
    rule = GradientNormDamping()
    h, theta = 3.0, np.array([2.0])
    for gamma in (1e-6, 1e-2, 1.0, 1e2, 1e6):
        gradient = {"x": h * theta}
        damping = rule.value(BACKEND, gradient, np.asarray(gamma))
        new = theta - h * theta / (h + damping)
        loss, new_loss = 0.5 * h * theta**2, 0.5 * h * new**2
        assert rule.accepts(BACKEND, damping, loss[0], new_loss[0], {"x": h * new})


def test_the_rule_rejects_when_the_curvature_is_wrong():
    """With curvature 0 in place of h the step is −γ θ̂: accepted only up to a γ that can be solved for.

    δ = −g/λ = −γ g/‖g‖. With L = ½ h θ², g = h θ (θ > 0): L − L⁺ = h γ (θ − γ/2), ∇L⁺ = h (θ − γ) and
    λ = h θ/γ, so the rule reads 8 θ (θ − γ/2) ≥ (θ − γ)², i.e. γ² + 2 θ γ − 7 θ² ≤ 0: γ ≤ θ (√8 − 1).
    """
    rule = GradientNormDamping()
    h, theta = 5.0, 2.0
    limit = theta * (math.sqrt(8.0) - 1.0)
    for gamma, accepted in ((0.5 * limit, True), (0.999 * limit, True), (1.001 * limit, False)):
        damping = rule.value(BACKEND, {"x": np.array([h * theta])}, np.asarray(gamma))
        new = theta - h * theta / damping
        arguments = (np.asarray(0.5 * h * theta**2), np.asarray(0.5 * h * new**2))
        got = rule.accepts(BACKEND, damping, *arguments, {"x": np.array([h * new])})
        assert bool(got) is accepted


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "0", None, True])
def test_bad_constants_are_refused(value):
    with pytest.raises(ValueError, match="damping must be a finite number of at least 0, got"):
        ConstantDamping(value=value)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"initial": 0.0}, "initial must be a finite number above 0, got 0.0"),
        ({"smallest": -1.0}, "smallest must be a finite number above 0, got -1.0"),
        ({"largest": float("inf")}, "largest must be a finite number above 0, got inf"),
        ({"initial": 2.0, "largest": 1.0}, "initial must lie between .* got 2.0 outside"),
        ({"initial": 1e-12}, "initial must lie between smallest and largest"),
    ],
)
def test_bad_bounds_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GradientNormDamping(**settings)
