"""Every metric against autodiff of the true divergence, and the weighting of losses."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from llqr.backend import NumpyBackend
from llqr.curvature import LossHessian
from llqr.divergences import (
    Bernoulli,
    Categorical,
    FramewiseCategorical,
    Gaussian,
    Laplace,
    Renyi,
    SumMetric,
)
from tests import backends

BACKEND = NumpyBackend()
ORDERS = [0.25, 0.5, 1.0, 2.0, 5.0]


def _matrix(metric, output, weights=None):
    """Return the metric as a dense matrix on vec(output)."""
    columns = [
        metric.product(BACKEND, output, weights, unit.reshape(output.shape)).reshape(-1)
        for unit in np.eye(output.size)
    ]
    return np.stack(columns, axis=1)


def _log_moment(family, order, first, second):
    """Return log ∫ p^α q^(1−α) for one event (JAX)."""
    import jax
    import jax.numpy as jnp

    if family == "categorical":
        p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
        return jax.nn.logsumexp(order * p + (1.0 - order) * q)
    if family == "bernoulli":
        p = jnp.stack([jax.nn.log_sigmoid(first), jax.nn.log_sigmoid(-first)])
        q = jnp.stack([jax.nn.log_sigmoid(second), jax.nn.log_sigmoid(-second)])
        return jax.nn.logsumexp(order * p + (1.0 - order) * q, axis=0).sum()
    # Gaussian of precision τ, closed form of the integral: −½ α (1 − α) τ (μ₁ − μ₂)².
    return (-0.5 * order * (1.0 - order) * 1.7 * (first - second) ** 2).sum()


def _divergence(family, order, first, second):
    """Return KL(p ‖ q) for order 1, else the Rényi divergence log ∫ p^α q^(1−α) / (α − 1)."""
    import jax
    import jax.numpy as jnp

    if order != 1.0:
        return _log_moment(family, order, first, second) / (order - 1.0)
    if family == "categorical":
        p, q = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
        return (jnp.exp(p) * (p - q)).sum()
    if family == "bernoulli":
        p = jnp.stack([jax.nn.log_sigmoid(first), jax.nn.log_sigmoid(-first)])
        q = jnp.stack([jax.nn.log_sigmoid(second), jax.nn.log_sigmoid(-second)])
        return (jnp.exp(p) * (p - q)).sum()
    return (0.5 * 1.7 * (first - second) ** 2).sum()


METRICS = {
    "categorical": Categorical(),
    "bernoulli": Bernoulli(),
    "gaussian": Gaussian(precision=1.7),
}


@pytest.mark.parametrize("family", METRICS)
@pytest.mark.parametrize("order", ORDERS)
def test_metrics_are_second_derivatives_of_the_divergence(rng, family, order):
    jax = pytest.importorskip("jax")
    output = 1.5 * rng.standard_normal(4)
    exact = jax.hessian(lambda other: _divergence(family, order, output, other))(output)
    metric = METRICS[family] if order == 1.0 else Renyi(order=order, base=METRICS[family])
    np.testing.assert_allclose(_matrix(metric, output), exact, rtol=1e-12, atol=1e-13)
    # The metric is that of the divergence in either argument.
    swapped = jax.hessian(lambda other: _divergence(family, order, other, output))(output)
    np.testing.assert_allclose(_matrix(metric, output), swapped, rtol=1e-12, atol=1e-13)


def test_renyi_of_order_one_is_the_fisher(rng):
    output = rng.standard_normal((2, 3))
    np.testing.assert_array_equal(
        _matrix(Renyi(order=1.0, base=Categorical()), output), _matrix(Categorical(), output)
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_laplace_is_the_expected_outer_product_of_scores(rng, scale):
    mean = rng.standard_normal(2)
    # The score of exp(−|y − μ|/b) / 2b in μ is sign(y − μ)/b: independent signs, each ±1 with
    # probability ½, so the expectation is a finite sum over sign patterns.
    signs = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    expected = np.mean([np.outer(s, s) / scale**2 for s in signs], axis=0)
    np.testing.assert_allclose(_matrix(Laplace(scale=scale), mean), expected, rtol=1e-14)


@pytest.mark.parametrize(
    "metric, sampled",
    [
        (Categorical(), lambda p: [(p[k], np.eye(len(p))[k] - p) for k in range(len(p))]),
        (Bernoulli(), None),
    ],
    ids=["categorical", "bernoulli"],
)
def test_fisher_is_the_expected_outer_product_of_scores(rng, metric, sampled):
    output = rng.standard_normal(3)
    if sampled:
        p = np.exp(output) / np.exp(output).sum()
        expected = sum(weight * np.outer(score, score) for weight, score in sampled(p))
    else:
        p = 1.0 / (1.0 + np.exp(-output))
        expected = np.diag(p * (1.0 - p) ** 2 + (1.0 - p) * p**2)
    np.testing.assert_allclose(_matrix(metric, output), expected, rtol=1e-12, atol=1e-15)


def test_losses_equal_to_their_fisher(rng):
    """For softmax, sigmoid and squared error the loss's Hessian in the output is the Fisher."""
    jax = pytest.importorskip("jax")
    import jax.numpy as jnp

    output, target = rng.standard_normal(4), rng.standard_normal(4)
    label = np.eye(4)[2]
    losses = [
        (Categorical(), lambda x: -(label * jax.nn.log_softmax(x)).sum()),
        (Bernoulli(), lambda x: (jnp.logaddexp(0.0, x) - label * x).sum()),
        (Gaussian(), lambda x: 0.5 * ((x - target) ** 2).sum()),
        (Gaussian(precision=2.0), lambda x: ((x - target) ** 2).sum()),
    ]
    for metric, loss in losses:
        np.testing.assert_allclose(
            _matrix(metric, output), jax.hessian(loss)(output), rtol=1e-12, atol=1e-14
        )


WEIGHTED = {
    "categorical": (Categorical(), (2, 3, 4), [(2,), (2, 3)]),
    "framewise": (FramewiseCategorical(), (2, 3, 4), [(2,), (2, 3)]),
    "bernoulli": (Bernoulli(), (2, 3), [(2,), (2, 3)]),
    "gaussian": (Gaussian(precision=0.7), (2, 3), [(2,), (2, 3)]),
    "laplace": (Laplace(scale=2.0), (2, 3), [(2,), (2, 3)]),
    "renyi": (Renyi(order=2.0, base=Categorical()), (2, 3, 4), [(2,), (2, 3)]),
    "sum": (Categorical() + Gaussian(precision=0.1), (2, 3, 4), [(2,), (2, 3)]),
}


@pytest.mark.parametrize("key", WEIGHTED)
def test_weights_multiply_every_event_of_their_index(rng, key):
    metric, shape, weight_shapes = WEIGHTED[key]
    output, tangent = rng.standard_normal(shape), rng.standard_normal(shape)
    plain = metric.product(BACKEND, output, None, tangent)
    for weight_shape in weight_shapes:
        weights = rng.random(weight_shape)
        weighted = metric.product(BACKEND, output, weights, tangent)
        for index in np.ndindex(weight_shape):
            np.testing.assert_allclose(weighted[index], weights[index] * plain[index], rtol=1e-14)
        mask = weights > 0.5
        masked = metric.product(BACKEND, output, mask, tangent)
        assert masked.dtype == plain.dtype
        np.testing.assert_array_equal(masked[~mask], 0.0)
        np.testing.assert_array_equal(masked[mask], plain[mask])


def test_masked_metric_over_normaliser_is_the_hessian_of_the_masked_mean_loss(rng):
    jax = pytest.importorskip("jax")
    output = rng.standard_normal((3, 4, 2))
    weights = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.5, 0.0, 0.0, 0.0]])
    labels = np.eye(2)[rng.integers(2, size=(3, 4))]

    def loss(flat):
        events = -(labels * jax.nn.log_softmax(flat.reshape(output.shape))).sum(-1)
        return (weights * events).sum() / weights.sum()

    metric = Categorical()
    normaliser = metric.normaliser(BACKEND, output, weights)
    np.testing.assert_allclose(
        _matrix(metric, output, weights) / normaliser,
        jax.hessian(loss)(output.reshape(-1)),
        rtol=1e-12,
        atol=1e-14,
    )


@pytest.mark.parametrize(
    "metric, shape, weights, expected",
    [
        (Categorical(), (5, 4), None, 5),
        (Categorical(), (5, 3, 4), None, 15),
        (Categorical(), (5, 3, 4), np.arange(5.0), 3 * 10),
        (Categorical(), (2, 3, 4), np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 0.5]]), 3.5),
        (FramewiseCategorical(), (5, 3, 4), None, 5),
        (FramewiseCategorical(), (2, 3, 4), np.ones((2, 3)), 2),
        (FramewiseCategorical(), (5, 3, 4), np.array([1.0, 1.0, 0.0, 1.0, 0.0]), 3),
        (Gaussian(), (5, 3), None, 15),
        (Gaussian(), (5, 3), np.array([1.0, 1.0, 0.0, 0.0, 0.0]), 6),
        (Gaussian(reduction="examples"), (5, 3), None, 5),
        (Gaussian(reduction="examples"), (5, 3), np.array([1, 1, 0, 0, 0]), 2),
        (Laplace(reduction="examples"), (5, 3), np.ones((5, 3)), 5),
        (Bernoulli(), (0, 3), None, 0),
        (Renyi(order=3.0, base=FramewiseCategorical()), (5, 3, 4), None, 5),
        (Categorical() + Gaussian(), (5, 3, 4), None, 15),
        (Gaussian(reduction="examples") + Gaussian(), (5, 3), None, 5),
    ],
    ids=str,
)
def test_normalisers_count_what_the_loss_averages_over(metric, shape, weights, expected):
    assert float(metric.normaliser(BACKEND, np.zeros(shape), weights)) == expected


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
def test_normaliser_is_exact_for_low_precision_outputs(framework):
    backend, to, _ = backends.make(framework)
    if framework == "torch":
        import torch

        output = torch.zeros((1001, 1), dtype=torch.bfloat16)
    else:
        import jax.numpy as jnp

        output = jnp.zeros((1001, 1), jnp.bfloat16)
    weights = to(np.ones(1001, dtype=np.float32))
    for metric in (Gaussian(), Categorical()):
        assert float(metric.normaliser(backend, output, None)) == 1001.0
        assert float(metric.normaliser(backend, output, weights)) == 1001.0


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
@pytest.mark.parametrize("key", WEIGHTED)
def test_frameworks_agree_with_numpy(rng, key, framework):
    backend, to, back = backends.make(framework)
    metric, shape, weight_shapes = WEIGHTED[key]
    output, tangent = rng.standard_normal(shape), rng.standard_normal(shape)
    for weights in [None, *(rng.random(s) for s in weight_shapes)]:
        theirs = None if weights is None else to(weights)
        got = metric.product(backend, to(output), theirs, to(tangent))
        expected = metric.product(BACKEND, output, weights, tangent)
        np.testing.assert_allclose(back(got), expected, rtol=1e-12, atol=1e-14)
        normaliser = metric.normaliser(backend, to(output), theirs)
        assert math.isclose(
            float(normaliser), float(metric.normaliser(BACKEND, output, weights)), rel_tol=1e-14
        )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.sampled_from([1e-8, 1.0, 40.0, 1e4]),
    key=st.sampled_from(sorted(WEIGHTED)),
)
def test_metrics_are_symmetric_and_positive_semi_definite(seed, magnitude, key):
    rng = np.random.default_rng(seed)
    metric, shape, _ = WEIGHTED[key]
    matrix = _matrix(metric, magnitude * rng.standard_normal(shape))
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12, atol=1e-15)
    assert np.linalg.eigvalsh(matrix).min() > -1e-14


@pytest.mark.parametrize("framework", backends.BACKENDS)
def test_bernoulli_keeps_its_digits_at_large_logits(framework):
    backend, to, back = backends.make(framework)
    output = to(np.array([40.0, -40.0]))
    product = back(Bernoulli().product(backend, output, None, to(np.ones(2))))
    np.testing.assert_allclose(product, math.exp(-40.0), rtol=1e-12)


def test_sums_nest_and_keep_the_first_rule():
    nested = Gaussian(reduction="examples") + Gaussian(precision=2.0) + Gaussian(precision=3.0)
    assert isinstance(nested, SumMetric) and nested.mean_over == "examples"
    np.testing.assert_allclose(_matrix(nested, np.zeros((1, 2))), 6.0 * np.eye(2), rtol=1e-15)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 4), (2, 1)])
def test_weights_of_a_wrong_shape_are_refused(shape):
    output = np.zeros((2, 3, 4))
    for call in (
        lambda: Categorical().product(BACKEND, output, np.ones(shape), output),
        lambda: Categorical().normaliser(BACKEND, output, np.ones(shape)),
    ):
        with pytest.raises(ValueError, match=r"weights must have a shape .*\(2, 3\) begin with"):
            call()


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "1", True])
def test_bad_scales_are_refused(value):
    for build, name in (
        (lambda: Gaussian(precision=value), "precision"),
        (lambda: Laplace(scale=value), "scale"),
        (lambda: Renyi(order=value, base=Categorical()), "order"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, got"):
            build()


def test_bad_parts_are_refused():
    with pytest.raises(ValueError, match='reduction must be "events" or "examples", got \'mean\''):
        Gaussian(reduction="mean")
    with pytest.raises(TypeError, match="base must be a metric object, got 'categorical'"):
        Renyi(order=2.0, base="categorical")
    with pytest.raises(TypeError, match="second must be a metric object, got LossHessian"):
        Categorical() + LossHessian()
