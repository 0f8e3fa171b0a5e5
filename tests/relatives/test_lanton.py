"""LANTON's directions, norms and rates against singular values and written-out recursions."""

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.relatives import LANTON, Euclidean, NoiseAdaptiveRates, Sign, Spectral
from llqr.relatives.noise import LayerNoise, layers_of_blocks
from llqr.structures import Scalar, make_blocks

NUMPY = NumpyBackend()
SHAPES = {"a.weight": (3, 5), "b.weight": (6, 2), "a.bias": (3,), "b.bias": (6,)}


def random(rng, scale=1.0):
    return {name: scale * rng.standard_normal(shape) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 6)])
def test_exact_spectral_geometry_equals_singular_values(rng, shape):
    value = rng.standard_normal(shape)
    left, values, right = np.linalg.svd(value, full_matrices=False)
    length = 0.2 * np.sqrt(max(shape))
    exact = Spectral(method="exact")
    np.testing.assert_allclose(
        exact.direction(NUMPY, value), length * left @ right, rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(exact.dual_norm(NUMPY, value), length * values.sum(), rtol=1e-10)
    iterated = Spectral()
    close = np.linalg.svd(iterated.direction(NUMPY, value), compute_uv=False) / length
    assert (close > 0.6).all() and (close < 1.25).all()
    ratio = iterated.dual_norm(NUMPY, value) / (length * values.sum())
    assert 0.65 < ratio < 1.2


@pytest.mark.parametrize("geometry", [Spectral(method="exact"), Euclidean(), Sign()])
def test_dual_norm_is_the_product_with_the_direction(rng, geometry):
    value = rng.standard_normal((4, 3))
    direction = geometry.direction(NUMPY, value)
    np.testing.assert_allclose((value * direction).sum(), geometry.dual_norm(NUMPY, value))
    # The root mean square of a direction is at most 0.2, with equality for square or wide matrices.
    assert np.sqrt((direction**2).mean()) <= 0.2 + 1e-12
    np.testing.assert_array_equal(geometry.direction(NUMPY, 0.0 * value), 0.0)
    assert geometry.dual_norm(NUMPY, 0.0 * value) == 0.0


def test_rank_deficient_matrices_stay_finite(rng):
    value = np.outer(rng.standard_normal(4), rng.standard_normal(3))
    norm = 0.4 * np.linalg.norm(value)
    np.testing.assert_allclose(Spectral(method="exact").dual_norm(NUMPY, value), norm, rtol=1e-9)


@pytest.mark.parametrize("rule, power", [("sqrt", 0.5), ("linear", 1.0)])
def test_steps_equal_the_written_out_recursion(rng, rule, power):
    noise = NoiseAdaptiveRates(noise_scale=0.5, noise_decay=0.7, rule=rule)
    method = LANTON(momentum=0.6, noise=noise, geometry=_exact)
    state = method.init(NUMPY, random(rng, 0.0))
    momentum = previous = random(rng, 0.0)
    estimate = dict.fromkeys(SHAPES, 0.0)
    for count in range(4):
        gradient = random(rng, 1.0 + count)
        step, state = method.update(NUMPY, state, gradient, dict.fromkeys(SHAPES, 0.1))
        momentum = {n: 0.6 * momentum[n] + 0.4 * gradient[n] for n in SHAPES}
        if count:
            change = {n: gradient[n] - previous[n] for n in SHAPES}
            estimate = {n: 0.7 * estimate[n] + 0.3 * _dual(change[n]) ** 2 for n in SHAPES}
        previous = gradient
        alpha = {n: 0.5 / np.sqrt(0.25 + own) for n, own in estimate.items()}
        for name in SHAPES:
            group = [alpha[other] for other in SHAPES if len(SHAPES[other]) == len(SHAPES[name])]
            rate = 0.1 * (alpha[name] / max(group)) ** power
            np.testing.assert_allclose(
                step[name], rate * _direction(momentum[name]), rtol=1e-8, atol=1e-12
            )
    assert min(alpha.values()) < 0.9 * max(alpha.values())


def _exact(name, shape):
    return Spectral(method="exact") if len(shape) == 2 else Euclidean()


def _direction(value):
    if value.ndim == 1:
        return 0.2 * np.sqrt(value.size) * value / np.linalg.norm(value)
    left, _, right = np.linalg.svd(value, full_matrices=False)
    return 0.2 * np.sqrt(max(value.shape)) * left @ right


def _dual(value):
    if value.ndim == 1:
        return 0.2 * np.sqrt(value.size) * np.linalg.norm(value)
    return 0.2 * np.sqrt(max(value.shape)) * np.linalg.svd(value, compute_uv=False).sum()


def test_rates_recover_the_ratio_of_noises(rng):
    # Without signal and with α far below the noise, rates are σ^(−1/2) relative to the quietest layer.
    sigma = {"a.bias": 1.0, "b.bias": 4.0, "a.weight": 9.0}
    layers = LayerNoise(
        rates=NoiseAdaptiveRates(noise_scale=1e-6, noise_decay=0.995), layers=lambda name: name
    )
    size = {name: (200,) for name in sigma}
    state = layers.init(NUMPY, {name: np.zeros(shape) for name, shape in size.items()})
    for _ in range(1500):
        gradient = {name: own * rng.standard_normal(200) for name, own in sigma.items()}
        rates, state = layers.update(NUMPY, state, gradient)
    for name, own in sigma.items():
        np.testing.assert_allclose(rates[name], own**-0.5, rtol=0.03)
        # E‖G − G̃‖² is twice the variance.
        np.testing.assert_allclose(state["noise"][name], 2 * 200 * own**2, rtol=0.06)


def test_layers_join_parameters_and_may_be_the_blocks_of_llqr(rng):
    blocks = make_blocks(SHAPES, Scalar())
    by_name, by_block = LayerNoise(), LayerNoise(layers=layers_of_blocks(blocks))
    states = [own.init(NUMPY, random(rng, 0.0)) for own in (by_name, by_block)]
    assert set(states[0]["noise"]) == {"a", "b"}
    for _ in range(3):
        gradient = random(rng)
        one, states[0] = by_name.update(NUMPY, states[0], gradient)
        two, states[1] = by_block.update(NUMPY, states[1], gradient)
    assert one == two and one["a.weight"] == one["a.bias"] != one["b.bias"]


def test_geometry_must_be_an_object():
    method = LANTON(geometry=lambda name, shape: "spectral")
    with pytest.raises(TypeError, match=r"geometry for parameter .a[.]weight. must be an object"):
        method.geometries(SHAPES)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: LANTON(momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (
            lambda: NoiseAdaptiveRates(noise_scale=0.0),
            "noise_scale must be a finite number above 0",
        ),
        (lambda: NoiseAdaptiveRates(rule="cubic"), "rule must be .*got 'cubic'"),
        (lambda: Spectral(method="qr"), "method must be .*got 'qr'"),
        (lambda: Spectral(steps=0), "steps must be an integer of at least 1, got 0"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
