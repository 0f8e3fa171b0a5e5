"""Which C is built from a linearisation, against dense Jacobians; chunks add up exactly."""

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.curvature import (
    OUTPUT,
    GaussNewton,
    Hessian,
    LossHessian,
    gauss_newton,
    quadratic_model,
)
from llqr.directions import Directions
from llqr.divergences import Bernoulli, Categorical, Gaussian, Laplace, Renyi

BACKEND = NumpyBackend()
PARAMETERS, HIDDEN, CLASSES = 5, 2, 3


class Chunk:
    """A linearised network given by its dense Jacobians: hidden [B, 2] and output [B, 3]."""

    def __init__(self, rng, examples):
        self.outputs = {
            OUTPUT: rng.standard_normal((examples, CLASSES)),
            "hidden": rng.standard_normal((examples, HIDDEN)),
        }
        self.jacobians = {
            name: rng.standard_normal((*value.shape, PARAMETERS))
            for name, value in self.outputs.items()
        }
        self.weights = {OUTPUT: rng.random(examples), "hidden": rng.random((examples, HIDDEN))}
        self.normaliser = np.asarray(float(examples))
        self.loss = np.asarray(1.0)
        self.summed_gradient = rng.standard_normal(PARAMETERS)
        half = rng.standard_normal((PARAMETERS, PARAMETERS))
        self.hessian = half + half.T
        half = rng.standard_normal((examples * CLASSES, examples * CLASSES))
        self.output_hessian = half + half.T

    def gradient(self):
        return {"w": self.summed_gradient}

    def jvp(self, direction):
        return {name: j @ direction["w"] for name, j in self.jacobians.items()}

    def vjp(self, cotangents):
        return {
            "w": sum(
                np.tensordot(value, self.jacobians[name], axes=value.ndim)
                for name, value in cotangents.items()
            )
        }

    def hessian_product(self, direction):
        return {"w": self.hessian @ direction["w"]}

    def output_hessian_product(self, tangent):
        return (self.output_hessian @ tangent.reshape(-1)).reshape(tangent.shape)

    def dense(self, name, metric):
        """Return Jᵀ M J with the weights of this output."""
        output = self.outputs[name]
        jacobian = self.jacobians[name].reshape(-1, PARAMETERS)
        matrix = np.stack(
            [
                metric.product(
                    BACKEND, output, self.weights.get(name), unit.reshape(output.shape)
                ).reshape(-1)
                for unit in np.eye(output.size)
            ],
            axis=1,
        )
        return jacobian.T @ matrix @ jacobian


class Problem:
    """Chunks whose contributions add up."""

    backend = BACKEND

    def __init__(self, *chunks):
        self.chunks = chunks

    def sum_over_chunks(self, contribution):
        total = None
        for chunk in self.chunks:
            part = contribution(chunk)
            total = part if total is None else _add(total, part)
        return total

    def loss(self, step):
        return np.asarray(2.5)

    def loss_and_gradient(self, step):
        return np.asarray(2.5), step


def _add(x, y):
    return {k: _add(x[k], y[k]) for k in x} if isinstance(x, dict) else x + y


def _check(curvature, problem, expected):
    model = quadratic_model(curvature, problem)
    matrix = np.stack(
        [model.curvature_product({"w": unit})["w"] for unit in np.eye(PARAMETERS)], axis=1
    )
    np.testing.assert_allclose(matrix, expected, rtol=1e-12, atol=1e-12)
    return model


@pytest.fixture
def problem(rng):
    return Problem(Chunk(rng, 4), Chunk(rng, 1), Chunk(rng, 3))


def test_gradient_is_that_of_the_mean_over_all_chunks(problem):
    model = quadratic_model(Hessian(), problem)
    expected = sum(chunk.summed_gradient for chunk in problem.chunks) / 8.0
    np.testing.assert_allclose(model.gradient["w"], expected, rtol=1e-14)
    assert float(model.loss_and_gradient({})[0]) == float(model.loss({})) == 2.5
    assert float(model.initial_loss()) == 3.0 / 8.0  # one of each chunk


def test_hessian(problem):
    expected = sum(chunk.hessian for chunk in problem.chunks) / 8.0
    assert _check(Hessian(), problem, expected).gram is None


@pytest.mark.parametrize(
    "metric", [Categorical(), Bernoulli(), Laplace(), Renyi(order=0.4, base=Categorical())], ids=str
)
@pytest.mark.parametrize("reduction, divisor", [("mean", 8.0), ("sum", 1.0)])
def test_fisher_and_its_reduction(problem, metric, reduction, divisor):
    expected = sum(chunk.dense(OUTPUT, metric) for chunk in problem.chunks) / divisor
    _check(GaussNewton(metric=metric, reduction=reduction), problem, expected)


def test_gauss_newton_uses_the_losses_own_hessian(problem):
    def dense(chunk):
        jacobian = chunk.jacobians[OUTPUT].reshape(-1, PARAMETERS)
        return jacobian.T @ chunk.output_hessian @ jacobian

    expected = sum(dense(chunk) for chunk in problem.chunks) / 8.0
    _check(GaussNewton(metric=LossHessian()), problem, expected)


def test_intermediate_metrics_add_up_each_with_its_own_weights(problem):
    hidden, output = Gaussian(precision=0.3), Categorical()
    only = sum(chunk.dense("hidden", hidden) for chunk in problem.chunks) / 8.0
    _check(GaussNewton(intermediate={"hidden": hidden}), problem, only)
    both = only + sum(chunk.dense(OUTPUT, output) for chunk in problem.chunks) / 8.0
    _check(GaussNewton(metric=output, intermediate={"hidden": hidden}), problem, both)


@pytest.mark.parametrize(
    "curvature",
    [
        GaussNewton(metric=Categorical()),
        GaussNewton(metric=Categorical(), reduction="sum"),
        GaussNewton(metric=LossHessian()),
        GaussNewton(metric=Categorical(), intermediate={"hidden": Gaussian()}),
        GaussNewton(intermediate={"hidden": Gaussian()}),
    ],
    ids=["fisher", "sum", "gauss_newton", "both", "intermediate"],
)
def test_gram_matrix_equals_products_in_the_parameters(rng, problem, curvature):
    model = quadratic_model(curvature, problem)
    columns = rng.standard_normal((PARAMETERS, 3))
    gram = model.gram([Directions(count=3, combine=lambda e: {"w": columns @ e})])
    products = np.stack([model.curvature_product({"w": c})["w"] for c in columns.T], axis=1)
    np.testing.assert_allclose(gram, columns.T @ products, rtol=1e-12, atol=1e-12)


def test_the_metric_on_outputs_adds_to_the_fisher(problem):
    curvature = gauss_newton(Categorical(), output_metric=0.5, reduction="sum")
    fisher = sum(chunk.dense(OUTPUT, Categorical()) for chunk in problem.chunks)
    # ε is weighted event by event as the loss: one weight per example here.
    for chunk in problem.chunks:
        jacobian = chunk.jacobians[OUTPUT]
        fisher = fisher + 0.5 * np.einsum(
            "b,bki,bkj->ij", chunk.weights[OUTPUT], jacobian, jacobian
        )
    _check(curvature, problem, fisher)
    assert gauss_newton(Categorical()) == GaussNewton(metric=Categorical())


def test_dtype_of_the_parameters_is_kept(rng):
    chunk = Chunk(rng, 2)
    chunk.summed_gradient = chunk.summed_gradient.astype(np.float32)
    model = quadratic_model(Hessian(), Problem(chunk))  # the normaliser is float64
    assert model.gradient["w"].dtype == np.float32


def test_a_batch_without_weight_is_not_finite_rather_than_wrong(rng):
    chunk = Chunk(rng, 2)
    chunk.normaliser = np.asarray(0.0)
    with np.errstate(divide="ignore"):
        model = quadratic_model(Hessian(), Problem(chunk))
    assert not np.isfinite(model.gradient["w"]).any()


def test_an_unknown_intermediate_names_what_there_is(problem):
    curvature = GaussNewton(intermediate={"layer3": Gaussian()})
    model = quadratic_model(curvature, problem)
    with pytest.raises(KeyError, match=r"'layer3' has no output .* returns \['hidden', 'output'\]"):
        model.curvature_product({"w": np.zeros(PARAMETERS)})


@pytest.mark.parametrize(
    "build, error, message",
    [
        (lambda: GaussNewton(), ValueError, "metric must be given when .* got None"),
        (lambda: GaussNewton(metric="fisher"), TypeError, "metric must be a metric object, got"),
        (
            lambda: GaussNewton(intermediate={"output": Gaussian()}),
            ValueError,
            "intermediate must not hold the key 'output'.*pass that one as metric=",
        ),
        (
            lambda: GaussNewton(intermediate={"hidden": LossHessian()}),
            TypeError,
            r"intermediate\['hidden'\] must be a metric object, got LossHessian",
        ),
        (
            lambda: GaussNewton(metric=Categorical(), reduction="none"),
            ValueError,
            'curvature_reduction must be "mean" or "sum", got \'none\'',
        ),
        (
            lambda: gauss_newton(Categorical(), output_metric=-0.1),
            ValueError,
            "output_metric must be a finite number of at least 0, got -0.1",
        ),
        (lambda: gauss_newton(LossHessian()), TypeError, "metric must be a metric object"),
    ],
)
def test_bad_settings_are_refused(build, error, message):
    with pytest.raises(error, match=message):
        build()
