"""LODO's step against dense matrices, and its hypergradient against autodiff through the step."""

import numpy as np
import pytest

from llqr import structures
from llqr.backend import NumpyBackend
from llqr.relatives import LODO
from tests.structures.test_lodo import explicit_product

NUMPY = NumpyBackend()
SHAPES = {"a": (2, 3), "b": (4,)}


def zeros():
    return {name: np.zeros(shape) for name, shape in SHAPES.items()}


def flat(values):
    return np.concatenate([np.asarray(values[name]).reshape(-1) for name in sorted(values)])


def nested(vector):
    return {"a": vector[:6].reshape(2, 3), "b": vector[6:]}


def run(method, gradients, rate=0.3):
    state, steps = method.init(NUMPY, zeros()), []
    for gradient in gradients:
        step, state = method.update(NUMPY, state, nested(gradient), dict.fromkeys(SHAPES, rate))
        steps.append(flat(step))
    return steps, state


def test_first_step_is_the_momentum_times_the_rate(rng):
    gradient = rng.standard_normal(10)
    (step,), _ = run(LODO(momentum=0.9), [gradient])
    np.testing.assert_allclose(step, 0.3 * 0.1 * gradient, rtol=1e-12)


def adam(value, gradient, moments, count, rate):
    """Textbook Adam with decays 0.9 and 0.999."""
    first = 0.9 * moments[0] + 0.1 * gradient
    second = 0.999 * moments[1] + 0.001 * gradient**2
    root = np.sqrt(second / (1 - 0.999**count)) + 1e-8
    return value - rate * first / (1 - 0.9**count) / root, (first, second)


def dense_hypergradient(blocks, momentum, cotangent, seed):
    """Return the gradient of −cᵀ (G̃ᵀG̃ m) in the blocks, by polarisation of the explicit product.

    As a function of one entry U is a quadratic, whose derivative is a central difference exactly.
    """
    result = np.zeros(blocks.shape)
    for index in np.ndindex(blocks.shape):
        values = []
        for sign in (1.0, -1.0):
            moved = blocks.copy()
            moved[index] += sign
            product = explicit_product(moved, seed)
            values.append(-cotangent @ (product.T @ product)[:10, :10] @ momentum)
        result[index] = 0.5 * (values[0] - values[1])
    return result


def test_three_steps_equal_dense_algebra(rng):
    structure = structures.LODO(depth=2, block_size=4, seed=5)
    method = LODO(structure=structure, momentum=0.8, meta_learning_rate=0.01)
    gradients = rng.standard_normal((3, 10))
    steps, state = run(method, gradients)
    blocks = structure.init(NUMPY, (10,), np.zeros(()))["B"]
    momentum, moments = np.zeros(10), (0.0, 0.0)
    for count, (gradient, step) in enumerate(zip(gradients, steps, strict=True)):
        if count:
            h = dense_hypergradient(blocks, momentum, 0.3 * gradient, 5)
            blocks, moments = adam(blocks, h, moments, count, 0.01)
        momentum = 0.8 * momentum + 0.2 * gradient
        product = explicit_product(blocks, 5)
        expected = 0.3 * (product.T @ product)[:10, :10] @ momentum
        np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(state["factors"]["network"]["B"], blocks, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("structure", [structures.LODO(depth=4), structures.Diagonal()])
def test_hypergradient_equals_autodiff_through_the_step(rng, structure):
    jax = pytest.importorskip("jax")
    from llqr.jax import JaxBackend

    backend, method = JaxBackend(), LODO(structure=structure)
    like = jax.tree.map(jax.numpy.asarray, zeros())
    state = method.init(backend, like)
    rates = {"a": 0.3, "b": 0.7}
    start = {name: jax.numpy.asarray(rng.standard_normal(s)) for name, s in SHAPES.items()}
    target = {name: jax.numpy.asarray(rng.standard_normal(s)) for name, s in SHAPES.items()}

    def loss(theta):
        return sum(jax.numpy.cos(theta[name] - target[name]).sum() for name in theta)

    params = start
    for _ in range(3):
        step, state = method.update(backend, state, jax.grad(loss)(params), rates)
        before, params = params, jax.tree.map(lambda p, s: p - s, params, step)

    def loss_after_the_last_step(factors):
        direction = method.precondition(backend, factors, state["momentum"])
        return loss({name: before[name] - rates[name] * direction[name] for name in before})

    expected = jax.grad(loss_after_the_last_step)(state["factors"])
    got = method.hypergradient(backend, state, jax.grad(loss)(params))
    for block, factors in expected.items():
        for name, value in factors.items():
            np.testing.assert_allclose(got[block][name], value, rtol=1e-9, atol=1e-13)


def test_it_learns_the_inverse_of_a_quadratic():
    # The bowl in small: the minimum walks, and the best possible loss is half the trace.
    generator, matrix = np.random.default_rng(0), np.diag(np.logspace(-2, 0, 10))
    structure, theta, losses = structures.LODO(depth=6), np.zeros(10), []
    method = LODO(structure=structure, momentum=0.0, meta_learning_rate=3e-3)
    state = method.init(NUMPY, zeros())
    for _ in range(1500):
        theta = theta + generator.standard_normal(10)  # relative to the minimum
        gradient = matrix @ theta
        losses.append(0.5 * theta @ gradient)
        step, state = method.update(NUMPY, state, nested(gradient), dict.fromkeys(SHAPES, 1.0))
        theta = theta - flat(step)
    best = 0.5 * np.trace(matrix)
    plain = [0.5 * h / (1.0 - (1.0 - h) ** 2) for h in np.diag(matrix)]  # stationary, U = I
    assert np.mean(losses[-500:]) < 1.6 * best < 0.7 * sum(plain)


def test_a_hypergradient_that_overflows_leaves_the_factors():
    method = LODO(momentum=0.0)
    state = method.init(NUMPY, zeros())
    big = nested(np.full(10, 1e200))
    rates = dict.fromkeys(SHAPES, 1.0)
    _, state = method.update(NUMPY, state, big, rates)
    with np.errstate(over="ignore", invalid="ignore"):
        _, new = method.update(NUMPY, state, big, rates)
    assert new["rejected"] == 1
    np.testing.assert_array_equal(new["factors"]["network"]["B"], state["factors"]["network"]["B"])


def test_ablations_are_settings():
    sizes = {
        LODO(): 3 * 1280,
        LODO(structure=structures.LODO(depth=4)): 3 * 320,
        LODO(structure=structures.LODO(block_size=2)): 3 * 640,
        LODO(structure=structures.Diagonal()): 3 * 10,
    }
    for method, factors in sizes.items():
        state = method.init(NUMPY, zeros())
        leaves = [v for own in state["factors"].values() for v in own.values()]
        assert 3 * sum(leaf.size for leaf in leaves) == factors
        assert method.state_size(SHAPES) == factors + 10 + 2 + 4


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        (
            {"meta_learning_rate": 0.0},
            "meta_learning_rate must be a finite number above 0, got 0.0",
        ),
        ({"meta_b2": -0.1}, r"meta_b2 must lie in \[0, 1\), got -0.1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        LODO(**settings)


def test_a_span_has_nothing_to_act_on():
    method = LODO(structure=structures.Span())
    with pytest.raises(ValueError, match="must act on the momentum alone"):
        method.init(NUMPY, zeros())
