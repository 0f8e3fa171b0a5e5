"""Gradient-normalized Newton steps against a dense solve of the published algorithm."""

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.damping import ConstantDamping, GradientNormDamping
from llqr.quadratic import QuadraticModel
from llqr.relatives import GradientNormalizedNewton
from tests import backends

NUMPY = NumpyBackend()


def rosenbrock(x):
    """Return value, gradient and Hessian of 0.01 (1 − x)² + (y − x²)²."""
    a, b = x
    value = 0.01 * (1 - a) ** 2 + (b - a**2) ** 2
    gradient = np.array([-0.02 * (1 - a) - 4 * a * (b - a**2), 2 * (b - a**2)])
    hessian = np.array([[0.02 - 4 * b + 12 * a**2, -4 * a], [-4 * a, 2.0]])
    return value, gradient, hessian


def model_at(x, to=np.asarray, back=np.asarray):
    _, gradient, hessian = rosenbrock(x)

    def loss_and_gradient(step):
        value, moved, _ = rosenbrock(x + back(step["x"]))
        return to(np.asarray(value)), {"x": to(moved)}

    return QuadraticModel(
        gradient={"x": to(gradient)},
        curvature_product=lambda v: {"x": to(hessian) @ v["x"]},
        loss_and_gradient=loss_and_gradient,
    )


def published(x, gamma, steps):
    """The algorithm with exact solves; a matrix that is not positive definite is rejected."""
    points, gammas, trials = [], [], 0
    for _ in range(steps):
        value, gradient, hessian = rosenbrock(x)
        accepted = False
        while not accepted:
            trials += 1
            damping = np.linalg.norm(gradient) / gamma
            matrix = hessian + damping * np.eye(2)
            if np.linalg.eigvalsh(matrix).min() > 0.0:
                step = np.linalg.solve(matrix, -gradient)
                new, moved, _ = rosenbrock(x + step)
                accepted = value - new >= moved @ moved / (8.0 * damping)
            gamma = 2.0 * gamma if accepted else 0.5 * gamma
        x = x + step
        points.append(x)
        gammas.append(gamma)
    return points, gammas, trials


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(
    "start, gamma", [((-0.5, 2.0), 1.0), ((-0.5, 2.0), 64.0), ((1.5, 0.0), 0.1)]
)
def test_equals_the_published_algorithm_with_exact_solves(framework, start, gamma):
    if framework == "torch":
        pytest.importorskip("torch")
    backend, to, back = backends.make(framework)
    method = GradientNormalizedNewton(
        damping=GradientNormDamping(initial=gamma), solver_steps=20, tolerance=1e-13
    )
    x = np.array(start)
    state = method.init(backend, to(x))
    points, gammas, trials = published(x, gamma, 12)
    for point, expected in zip(points, gammas, strict=True):
        step, state = method.update(backend, state, model_at(x, to, back))
        x = x + back(step["x"])
        np.testing.assert_allclose(x, point, rtol=1e-8, atol=1e-10)
        assert float(state["smoothness"]) == expected
    assert int(state["trials"]) == trials and int(state["rejected"]) == 0


def test_reaches_the_minimum_of_rosenbrock_in_few_steps():
    method, x = GradientNormalizedNewton(), np.array([-0.5, 2.0])
    state = method.init(NUMPY, x)
    for _ in range(60):
        step, state = method.update(NUMPY, state, model_at(x))
        x = x + step["x"]
    assert rosenbrock(x)[0] < 1e-12


def test_conjugate_gradient_solves_the_damped_system(rng):
    factor = rng.standard_normal((6, 6))
    matrix, gradient = factor @ factor.T, rng.standard_normal(6)
    model = QuadraticModel(
        gradient={"x": gradient}, curvature_product=lambda v: {"x": matrix @ v["x"]}, damping=0.1
    )
    solved = GradientNormalizedNewton(tolerance=1e-12).solve(NUMPY, model)
    expected = np.linalg.solve(matrix + 0.1 * np.eye(6), -gradient)
    np.testing.assert_allclose(solved.solution["x"], expected, rtol=1e-8)
    assert solved.definite and 6 <= solved.step <= 12
    bad = QuadraticModel(gradient={"x": gradient}, curvature_product=lambda v: {"x": -v["x"]})
    assert not GradientNormalizedNewton().solve(NUMPY, bad).definite


def test_without_an_accepted_step_nothing_moves():
    # The loss rises in every direction, whatever the gradient says.
    model = QuadraticModel(
        gradient={"x": np.ones(2)},
        curvature_product=lambda v: v,
        loss_and_gradient=lambda step: (np.asarray(abs(step["x"]).sum()), {"x": np.ones(2)}),
    )
    method = GradientNormalizedNewton(trials=5)
    step, state = method.update(NUMPY, method.init(NUMPY, np.zeros(())), model)
    np.testing.assert_array_equal(step["x"], 0.0)
    assert (state["rejected"], state["trials"], state["smoothness"]) == (1, 5, 2.0**-5)


def test_bad_settings():
    with pytest.raises(TypeError, match="damping must be a GradientNormDamping"):
        GradientNormalizedNewton(damping=ConstantDamping())
    with pytest.raises(ValueError, match="trials must be an integer of at least 1, got 0"):
        GradientNormalizedNewton(trials=0)
    with pytest.raises(ValueError, match="loss_and_gradient must be given, got None"):
        GradientNormalizedNewton().update(
            NUMPY,
            GradientNormalizedNewton().init(NUMPY, np.zeros(())),
            QuadraticModel(gradient={"x": np.ones(1)}, curvature_product=lambda v: v),
        )
