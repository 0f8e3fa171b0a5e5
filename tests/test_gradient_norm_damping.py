"""Gradient-norm damping in the preconditioner: which fits it accepts, and how γ moves."""

import numpy as np
import pytest

from llqr.config import configure
from llqr.damping import GradientNormDamping
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel
from tests import fits


def _damped(**settings):
    return fits.make(damping=GradientNormDamping(initial=1.0, **settings))


def _with_loss(gradient, loss_at):
    return fits.model(gradient, loss_and_gradient=loss_at)


def _quadratic_loss(gradient):
    """L with this gradient and the Hessian of the model: every γ is accepted on it."""

    def evaluate(step):
        value = sum(
            float((gradient[n] * step[n]).sum() + 0.5 * fits.HESSIAN[n] * (step[n] ** 2).sum())
            for n in fits.SHAPES
        )
        return np.asarray(value), {n: gradient[n] + fits.HESSIAN[n] * step[n] for n in fits.SHAPES}

    return evaluate


def test_gradient_norm_damping_accepts_and_doubles(rng):
    preconditioner, gradient = _damped(), fits.gradient(rng)
    norm = np.sqrt(sum((g * g).sum() for g in gradient.values()))
    state = preconditioner.init(gradient)
    for gamma in (1.0, 2.0, 4.0):
        assert float(state.smoothness) == gamma
        state = preconditioner.fit(
            state, _with_loss(gradient, _quadratic_loss(gradient)), {"input": gradient}
        )
        assert float(state.last_fit.damping) == pytest.approx(norm / gamma, rel=1e-13)
        for name, value in fits.scalars(state).items():
            assert value == pytest.approx(1.0 / (fits.HESSIAN[name] + norm / gamma), rel=1e-13)
    assert int(state.fits) == 3 and int(state.rejected) == 0


def test_gradient_norm_damping_rejects_halves_and_tries_again(rng):
    preconditioner = fits.make(damping=GradientNormDamping(), update_interval=50)
    gradient = fits.gradient(rng)

    def rising(step):
        length = sum(float((s * s).sum()) for s in step.values())
        return np.asarray(length), {n: 2.0 * s for n, s in step.items()}

    state = preconditioner.init(gradient)
    state = preconditioner.fit(state, _with_loss(gradient, rising), {"input": gradient})
    assert float(state.smoothness) == 0.5
    assert (int(state.fits), int(state.rejected), int(state.last_fit.accepted)) == (0, 1, 0)
    assert fits.scalars(state) == dict.fromkeys(fits.SHAPES, 1.0)
    assert int(state.next_fit) == 1  # not 50


def test_gradient_norm_damping_on_its_known_problem():
    """The minimiser's path of γ on L = ½ h θ² with curvature 0 (see tests/test_damping.py).

    γ doubles while γ ≤ θ (√8 − 1) and is halved above it: with θ = 2 the limit is 3.66.
    """
    config = configure(
        structure="scalar",
        inner_solver="direct",
        damping="gradient_norm",
        ema_decay=0.0,
        update_interval=1,
    )
    preconditioner = Preconditioner(fits.BACKEND, config, {"x": (1,)})
    h, theta = 5.0, np.array([2.0])
    gradient = {"x": h * theta}
    model = QuadraticModel(
        gradient=gradient,
        curvature_product=lambda v: {"x": 0.0 * v["x"]},
        loss_and_gradient=lambda step: (
            np.asarray(0.5 * h * ((theta + step["x"]) ** 2).sum()),
            {"x": h * (theta + step["x"])},
        ),
    )
    state, path = preconditioner.init(gradient), []
    for _ in range(6):
        state = preconditioner.fit(state, model, {"input": gradient})
        path.append((float(state.smoothness), int(state.last_fit.accepted)))
    # γ = 1, 2 accepted; 4 rejected; then 2 accepted, 4 rejected, …
    assert path == [(2.0, 1), (4.0, 1), (2.0, 0), (4.0, 1), (2.0, 0), (4.0, 1)]


def test_gradient_norm_damping_needs_the_loss(rng):
    preconditioner, gradient = _damped(), fits.gradient(rng)
    with pytest.raises(ValueError, match=r"needs model.loss_and_gradient .* got None; supply it"):
        fits.fit(preconditioner, preconditioner.init(gradient), gradient)
