"""Gradient and curvature products of the JAX shell against dense matrices by autodiff, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.flatten_util import ravel_pytree

from llqr.curvature import GaussNewton, Hessian, LossHessian, quadratic_model
from llqr.directions import Directions
from llqr.divergences import Bernoulli, Categorical, FramewiseCategorical, Gaussian, Laplace, Renyi
from llqr.jax import JaxBackend, linearise
from llqr.jax.naming import Naming
from tests.jax import networks
from tests.jax.networks import Case, dense_oracle, quick_jit

CASES = {
    "mlp": networks.mlp,
    "convolutional": networks.convolutional,
    "transformer": networks.transformer,
    "lstm": lambda: networks.recurrent(linen.OptimizedLSTMCell),
    "gru": lambda: networks.recurrent(linen.GRUCell),
    "ctc": networks.connectionist,
}
METRICS = {
    "mlp": Categorical(),
    "convolutional": Categorical(),
    "transformer": Categorical(),
    "lstm": Gaussian(),
    "gru": Gaussian(),
    "ctc": FramewiseCategorical(),
}


NORMALISERS = {
    "mlp": 7.0,
    "convolutional": 5.0,
    "transformer": 9.0,
    "lstm": 8.0,
    "gru": 8.0,
    "ctc": 3.0,
}
"""What the losses are means over, counted by hand: events, unmasked events, numbers, sequences."""


def relative(actual, expected) -> float:
    actual, expected = np.asarray(actual), np.asarray(expected)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def problem_of(case: Case, curvature, **settings):
    return linearise(
        case.outputs_fn,
        case.loss_fn,
        case.params,
        case.batch,
        curvature=curvature,
        weights_fn=case.weights_fn,
        **settings,
    )


def models_of(case: Case, curvatures, directions, chunk_sizes=(None,)):
    """Return [gradient [n], C V [k, n]] per curvature and chunk size, flat, from one compiled program."""
    naming, (_, restore) = Naming.of(case.params), ravel_pytree(case.params)

    def flat(tensors):
        return ravel_pytree(naming.unflatten(tensors))[0]

    # Parameters and batch are arguments, as in training: jaxlib 0.7.0 folds constant convolutions wrongly.
    def compute(params, batch, directions):
        here, results = case._replace(params=params, batch=batch), []
        for curvature in curvatures:
            for chunk_size in chunk_sizes:
                model = quadratic_model(
                    curvature, problem_of(here, curvature, chunk_size=chunk_size)
                )
                products = jax.lax.map(
                    lambda v, m=model: flat(m.curvature_product(naming.flatten(restore(v)))),
                    directions,
                )
                results.append((flat(model.gradient), products))
        return results

    return quick_jit(compute)(case.params, case.batch, directions)


def some_directions(case: Case) -> jax.Array:
    return networks.normal(7, 3, ravel_pytree(case.params)[0].size)


@pytest.mark.parametrize("name", CASES)
def test_gradient_and_products_match_dense_matrices(name):
    case, oracle = CASES[name](), dense_oracle(CASES[name]())
    directions = some_directions(case)
    jacobian = oracle.jacobians["output"]
    middle = np.eye(len(jacobian)) if name in ("lstm", "gru") else oracle.categorical
    expected = [
        (Hessian(), oracle.hessian),
        (GaussNewton(metric=METRICS[name]), jacobian.T @ middle @ jacobian / NORMALISERS[name]),
        (GaussNewton(metric=LossHessian()), jacobian.T @ oracle.loss_hessian @ jacobian),
    ]
    results = models_of(case, [curvature for curvature, _ in expected], directions)
    for (gradient, products), (_, dense) in zip(results, expected, strict=True):
        assert relative(gradient, oracle.gradient) < 1e-12
        assert relative(products, directions @ dense) < 1e-11


@pytest.mark.parametrize("chunk_size", [None, 2, 4])
@pytest.mark.parametrize("curvature", [Hessian(), GaussNewton(metric=LossHessian())])
def test_the_loss_at_the_parameters_comes_with_the_gradient(curvature, chunk_size):
    case = networks.mlp_regression()

    def both(params, batch):
        here = case._replace(params=params, batch=batch)
        model = quadratic_model(curvature, problem_of(here, curvature, chunk_size=chunk_size))
        return model.initial_loss(), case.loss_fn(case.outputs_fn(params, batch), batch)

    found, expected = quick_jit(both)(case.params, case.batch)
    assert relative(found, expected) < 1e-14


@pytest.mark.parametrize(
    ("metric", "middle"),
    [
        (Bernoulli(), lambda z: np.exp(-z) / (1.0 + np.exp(-z)) ** 2),
        (Gaussian(precision=2.0), lambda z: 2.0 + 0.0 * z),
        (Laplace(scale=0.5), lambda z: 4.0 + 0.0 * z),
        (Renyi(order=0.5, base=Gaussian()), lambda z: 0.5 + 0.0 * z),
    ],
)
def test_elementwise_metrics_match_the_dense_matrix(metric, middle):
    case = networks.mlp_regression()
    directions = some_directions(case)
    jacobian = dense_oracle(case).jacobians["output"]
    outputs = np.asarray(case.outputs_fn(case.params, case.batch)).ravel()
    expected = directions @ (jacobian.T @ (middle(outputs)[:, None] * jacobian))
    curvatures = [GaussNewton(metric=metric, reduction=reduction) for reduction in ("sum", "mean")]
    (_, summed), (_, mean) = models_of(case, curvatures, directions)
    assert relative(summed, expected) < 1e-12
    assert relative(mean, expected / outputs.size) < 1e-12


def test_intermediate_metrics_add_to_the_output_metric():
    case = networks.mlp_with_intermediate()
    weights = jnp.asarray([1.0, 0.0, 2.0, 1.0, 1.0, 0.5, 1.0])
    case = case._replace(weights_fn=lambda batch: {"hidden": weights})
    directions, jacobians = some_directions(case), dense_oracle(case).jacobians
    curvature = GaussNewton(metric=Gaussian(), intermediate={"hidden": Gaussian(precision=3.0)})
    hidden = jacobians["hidden"]
    expected = jacobians["output"].T @ jacobians["output"]
    expected = expected + 3.0 * hidden.T @ (np.repeat(weights, 4)[:, None] * hidden)
    ((_, products),) = models_of(case, [curvature], directions)
    assert relative(products, directions @ expected / 21.0) < 1e-12


@pytest.mark.parametrize("name", ["mlp", "transformer"])
@pytest.mark.parametrize(
    "curvature", [Hessian(), GaussNewton(metric=Categorical()), GaussNewton(metric=LossHessian())]
)
def test_chunks_add_up_exactly(name, curvature):
    """Also where the last chunk is smaller, and where a chunk of the masked loss counts nothing."""
    case = CASES[name]()
    whole, *parts = models_of(case, [curvature], some_directions(case), (None, 1, 3, 100))
    for part in parts:
        for actual, expected in zip(part, whole, strict=True):
            assert relative(actual, expected) < 1e-12


def test_gram_matches_the_products_also_in_chunks():
    case, curvature = networks.mlp(), GaussNewton(metric=Categorical())
    naming, oracle = Naming.of(case.params), dense_oracle(case)
    vector, restore = ravel_pytree(case.params)
    basis = np.array(networks.normal(9, 5, vector.size))
    # The last two move one parameter, the others all but that one.
    own = naming.flatten(restore(np.arange(vector.size)))
    alone = sorted(own)[1]
    moved_alone = np.isin(np.arange(vector.size), own[alone])
    basis[3:, ~moved_alone] = 0.0
    basis[:3, moved_alone] = 0.0

    def group(rows, names):
        def combine(e):
            full = naming.flatten(restore(e @ rows))
            return {name: full[name] for name in names}

        return Directions(count=len(rows), combine=combine)

    groups = [group(basis[:3], set(own) - {alone}), group(basis[3:], {alone})]

    def grams():
        return [
            quadratic_model(
                curvature,
                problem_of(
                    case, curvature, chunk_size=chunk_size, backend=JaxBackend(map_batch_size=k)
                ),
            ).gram(groups)
            for chunk_size, k in ((None, 1), (3, 1), (3, 4))
        ]

    jacobian = oracle.jacobians["output"] @ np.asarray(basis).T
    for gram in quick_jit(grams)():
        assert relative(gram, jacobian.T @ oracle.categorical @ jacobian / 7.0) < 1e-12


def test_loss_and_gradient_at_a_step():
    case = networks.mlp()
    naming = Naming.of(case.params)
    step = jax.tree.map(lambda leaf: 0.1 * jnp.sin(leaf), case.params)
    moved = jax.tree.map(jnp.add, case.params, step)
    loss, gradient = jax.value_and_grad(lambda params: networks.mean_loss(case, params))(moved)
    for chunk_size in (None, 3):
        problem = problem_of(case, Hessian(), chunk_size=chunk_size)
        actual_loss, actual = quick_jit(problem.loss_and_gradient)(naming.flatten(step))
        np.testing.assert_allclose(actual_loss, loss, rtol=1e-14)
        alone = quick_jit(problem.loss)(naming.flatten(step))
        np.testing.assert_allclose(alone, loss, rtol=1e-14)
        for name, value in naming.flatten(gradient).items():
            np.testing.assert_allclose(actual[name], value, rtol=1e-12, atol=1e-15)


def test_every_product_is_there_whatever_the_curvature():
    """The Hessian's linearisation also serves forward products, and the other way round."""
    case = networks.mlp()
    naming = Naming.of(case.params)
    direction = naming.flatten(jax.tree.map(jnp.cos, case.params))

    def products(curvature):
        return problem_of(case, curvature).sum_over_chunks(
            lambda chunk: {
                "jvp": chunk.jvp(direction),
                "vjp": chunk.vjp({"output": jnp.cos(chunk.outputs["output"])}),
                "hessian": chunk.hessian_product(direction),
                "output_hessian": chunk.output_hessian_product(chunk.outputs["output"]),
            }
        )

    both = quick_jit(
        lambda: [products(c) for c in (Hessian(), GaussNewton(metric=Categorical()))]
    )()
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_bfloat16_parameters_give_float32_products():
    """Tangents pass through the half-precision model; what the core sees is float32."""
    case = networks.mlp(jnp.bfloat16)
    curvature = GaussNewton(metric=Categorical())
    model = quadratic_model(curvature, problem_of(case, curvature))
    product = model.curvature_product(model.gradient)
    assert {leaf.dtype for leaf in (*model.gradient.values(), *product.values())} == {
        jnp.dtype("float32")
    }
    wide = networks.mlp()
    wide = wide._replace(
        params=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), case.params),
        batch=(case.batch[0].astype(jnp.float64), case.batch[1]),
    )
    reference = quadratic_model(curvature, problem_of(wide, curvature))
    exact = reference.curvature_product(reference.gradient)
    for name, value in product.items():
        assert relative(np.asarray(value, np.float64), np.asarray(exact[name])) < 0.05


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loss_fn": lambda o, b: o.sum(-1)}, ValueError, r"loss_fn must return a scalar.*\(7,\)"),
        ({"batch": (jnp.zeros((0, 3)), jnp.zeros(0, int))}, ValueError, "at least one example"),
        ({"batch": (jnp.zeros((4, 3)), jnp.zeros(5, int))}, ValueError, "one leading axis"),
        ({"batch": 3.0}, ValueError, "at least one array with a leading example axis"),
        ({"params": {}}, ValueError, "empty pytree"),
        ({"params": {"w": jnp.arange(3)}}, TypeError, "floating-point arrays, got dtype int64"),
        ({"outputs_fn": lambda p, b: (b[0], b[0])}, TypeError, "outputs_fn must return an array"),
        ({"outputs_fn": lambda p, b: (b[0], {"output": b[0]})}, ValueError, "must not be named"),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        problem_of(networks.mlp()._replace(**change), GaussNewton(metric=Categorical()))


def test_bad_chunk_size_and_unknown_intermediate_are_named():
    case = networks.mlp()
    with pytest.raises(ValueError, match="chunk_size must be an integer of at least 1, got 0"):
        problem_of(case, Hessian(), chunk_size=0)
    curvature = GaussNewton(intermediate={"hiden": Gaussian()})
    model = quadratic_model(curvature, problem_of(networks.mlp_with_intermediate(), curvature))
    with pytest.raises(KeyError, match=r"hiden.*hidden"):
        model.curvature_product(model.gradient)
