"""The quadratic model: value, gradient and damping against dense matrices."""

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from llqr import tensors
from llqr.backend import NumpyBackend, machine_epsilon
from llqr.quadratic import QuadraticModel

BACKEND = NumpyBackend()


def _flat(values):
    return np.concatenate([values["a"].reshape(-1), values["b"].reshape(-1)])


def _named(flat):
    return {"a": flat[:6].reshape(2, 3), "b": flat[6]}


def _model(rng, damping=0.0):
    matrix = rng.standard_normal((7, 7))
    matrix = matrix + matrix.T
    gradient = rng.standard_normal(7)
    model = QuadraticModel(
        gradient=_named(gradient), curvature_product=lambda v: _named(matrix @ _flat(v))
    )
    return model.with_damping(damping), matrix + damping * np.eye(7), gradient


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), damping=st.sampled_from([0.0, 1e-6, 0.5, 1e4]))
def test_value_and_gradient_equal_the_dense_ones(seed, damping):
    rng = np.random.default_rng(seed)
    model, matrix, gradient = _model(rng, damping)
    step = rng.standard_normal(7)
    residual = model.residual(_named(step))
    np.testing.assert_allclose(_flat(residual), gradient + matrix @ step, rtol=1e-12, atol=1e-12)
    value = gradient @ step + 0.5 * step @ matrix @ step
    np.testing.assert_allclose(model.value(_named(step), residual), value, rtol=1e-11, atol=1e-11)


def test_the_gradient_is_the_derivative_of_the_value(rng):
    model, _, _ = _model(rng, 0.3)
    step, direction = rng.standard_normal(7), rng.standard_normal(7)

    def value(t):
        point = _named(step + t * direction)
        return model.value(point, model.residual(point))

    # Central differences of a parabola are exact.
    slope = (value(0.5) - value(-0.5)) / 1.0
    np.testing.assert_allclose(slope, _flat(model.residual(_named(step))) @ direction, rtol=1e-10)


def test_at_zero_the_value_vanishes_and_the_residual_is_the_gradient(rng):
    model, _, gradient = _model(rng)
    residual = model.residual(_named(np.zeros(7)))
    np.testing.assert_array_equal(_flat(residual), gradient)
    assert model.value(_named(np.zeros(7)), residual) == 0.0


def test_damping_is_replaced_and_not_added(rng):
    model, matrix, _ = _model(rng)
    twice = model.with_damping(0.5).with_damping(0.25)
    v = rng.standard_normal(7)
    np.testing.assert_allclose(_flat(twice.product(_named(v))), matrix @ v + 0.25 * v, rtol=1e-13)
    assert model.damping == 0.0


def test_one_product_per_residual(rng):
    calls = []
    model = QuadraticModel(
        gradient={"w": np.ones(2)}, curvature_product=lambda v: calls.append(1) or v
    )
    step = {"w": np.array([1.0, 2.0])}
    model.value(step, model.residual(step))
    assert len(calls) == 1


def test_the_loss_at_the_parameters_is_evaluated_unless_it_is_known():
    gradient = {"w": np.ones(2)}
    model = QuadraticModel(
        gradient=gradient,
        curvature_product=lambda v: v,
        loss=lambda step: 3.0 + step["w"].sum(),
    )
    assert model.initial_loss() == 3.0
    assert replace(model, loss_here=np.float64(4.0)).initial_loss() == 4.0
    silent = replace(model, loss=None)
    both = replace(silent, loss_and_gradient=lambda step: (5.0 + step["w"].sum(), step))
    assert both.initial_loss() == 5.0
    with pytest.raises(ValueError, match="loss_here, loss or loss_and_gradient"):
        silent.initial_loss()


def test_vector_space_arithmetic(rng):
    x, y = _named(rng.standard_normal(7)), _named(rng.standard_normal(7))
    np.testing.assert_allclose(_flat(tensors.add(x, y)), _flat(x) + _flat(y))
    np.testing.assert_allclose(_flat(tensors.scale(3.0, x)), 3.0 * _flat(x))
    np.testing.assert_allclose(_flat(tensors.add_scaled(x, -2.0, y)), _flat(x) - 2.0 * _flat(y))
    np.testing.assert_allclose(tensors.dot(x, y), _flat(x) @ _flat(y), rtol=1e-13)
    np.testing.assert_allclose(tensors.norm(BACKEND, x), np.linalg.norm(_flat(x)), rtol=1e-13)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_every_entry(rng, bad):
    x = {"a": np.zeros((2, 3)), "empty": np.zeros(0), "b": np.zeros(())}
    assert tensors.all_finite(BACKEND, x)
    for name, index in (("a", (1, 2)), ("b", ())):
        worse = {key: value.copy() for key, value in x.items()}
        worse[name][index] = bad
        assert not tensors.all_finite(BACKEND, worse)


def test_machine_epsilon_of_floating_dtypes_only():
    for dtype in (np.float16, np.float32, np.float64):
        assert machine_epsilon(np.zeros((), dtype)) == np.finfo(dtype).eps
    with pytest.raises(TypeError, match="floating dtype, got int32; cast them to float32"):
        machine_epsilon(np.zeros((), np.int32))
