"""M-FAC against the dense inverse of λI + (1/m) Σ g gᵀ."""

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.relatives import MFAC
from tests import backends

SHAPES = {"a": (3, 4), "b": (5,)}


def flat(values, back=np.asarray):
    return np.concatenate([back(values[name]).reshape(-1) for name in sorted(values)])


def nested(vector, to=np.asarray):
    return {"a": to(vector[:12].reshape(3, 4)), "b": to(vector[12:])}


def dense(window, damping, size):
    return damping * np.eye(17) + sum(np.outer(g, g) for g in window) / size


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("size, damping", [(1, 1e-2), (5, 1e-5), (40, 1e-3)])
def test_equals_the_dense_inverse_while_the_window_slides(rng, framework, size, damping):
    if framework == "torch":
        pytest.importorskip("torch")
    backend, to, back = backends.make(framework)
    method = MFAC(window=size, damping=damping)
    state = method.init(backend, nested(np.zeros(17), to))
    window = []
    for count in range(2 * min(size, 12) + 3):
        gradient, other = (
            rng.standard_normal(17) * 10.0 ** rng.uniform(-2, 1),
            rng.standard_normal(17),
        )
        window = [*window, gradient][-size:]
        step, state = method.update(backend, state, nested(gradient, to), {"a": 0.5, "b": 0.5})
        matrix = dense(window, damping, size)
        expected = 0.5 * np.linalg.solve(matrix, gradient)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(flat(step, back), expected, rtol=0, atol=1e-9 * scale)
        product = method.inverse_product(backend, state, nested(other, to))
        expected = np.linalg.solve(matrix, other)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(flat(product, back), expected, rtol=0, atol=1e-8 * scale)
        assert int(state["step"]) == count + 1


def test_repeated_and_zero_gradients(rng):
    # A singular Gram matrix: only the ridge keeps it invertible.
    backend, method = NumpyBackend(), MFAC(window=4, damping=1e-3)
    state = method.init(backend, nested(np.zeros(17)))
    gradient = rng.standard_normal(17)
    for g in (gradient, gradient, 0.0 * gradient, gradient, gradient, 2.0 * gradient):
        step, state = method.update(backend, state, nested(g), {"a": 1.0, "b": 1.0})
    matrix = dense([0.0 * gradient, gradient, gradient, 2.0 * gradient], 1e-3, 4)
    np.testing.assert_allclose(
        flat(step), np.linalg.solve(matrix, 2.0 * gradient), rtol=1e-8, atol=1e-12
    )


def test_errors_do_not_accumulate(rng):
    backend, method = NumpyBackend(), MFAC(window=8, damping=1e-5)
    state = method.init(backend, nested(np.zeros(17)))
    for _ in range(803):
        gradient = rng.standard_normal(17)
        _, state = method.update(backend, state, nested(gradient), {"a": 1.0, "b": 1.0})
    residual = state["matrix"] @ state["inverse"] - np.eye(8)
    assert np.abs(residual).max() < 1e-8


def test_float32_keeps_four_digits(rng):
    backend, method = NumpyBackend(), MFAC(window=8, damping=1e-3)
    state = method.init(backend, nested(np.zeros(17, np.float32)))
    window = []
    for _ in range(30):
        gradient = rng.standard_normal(17)
        window = [*window, gradient][-8:]
        step, state = method.update(
            backend, state, nested(gradient.astype(np.float32)), {"a": 1.0, "b": 1.0}
        )
    assert step["a"].dtype == np.float32
    expected = np.linalg.solve(dense(window, 1e-3, 8), gradient)
    np.testing.assert_allclose(flat(step), expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_momentum_sums_preconditioned_gradients(rng):
    backend = NumpyBackend()
    plain, heavy = MFAC(window=3, damping=0.1), MFAC(window=3, damping=0.1, momentum=0.5)
    states = [method.init(backend, nested(np.zeros(17))) for method in (plain, heavy)]
    velocity = 0.0
    for _ in range(5):
        gradient = nested(rng.standard_normal(17))
        one, states[0] = plain.update(backend, states[0], gradient, {"a": 1.0, "b": 1.0})
        two, states[1] = heavy.update(backend, states[1], gradient, {"a": 1.0, "b": 1.0})
        velocity = 0.5 * velocity + flat(one)
        np.testing.assert_allclose(flat(two), velocity, rtol=1e-12)


def test_memory_is_as_stated():
    for method in (MFAC(window=6), MFAC(window=6, momentum=0.9)):
        state = method.init(NumpyBackend(), nested(np.zeros(17)))
        arrays = [state[name] for name in ("matrix", "inverse", "step")]
        arrays += [*state["gradients"].values(), *state.get("velocity", {}).values()]
        assert method.state_size(SHAPES) == sum(np.asarray(array).size for array in arrays)
    assert "state 2.1e+03 MiB" in MFAC(window=1024).describe({"w": (536_000,)})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
        ({"damping": 0.0}, "damping must be a finite number above 0, got 0.0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        MFAC(**settings)
