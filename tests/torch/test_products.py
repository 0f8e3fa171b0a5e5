"""Products of the linearisation against dense Jacobians and Hessians by reverse-mode autodiff."""

import pytest
import torch
from torch import nn

import llqr.torch
from llqr.curvature import GaussNewton, Hessian, LossHessian, quadratic_model
from llqr.directions import Directions
from llqr.divergences import Bernoulli, Categorical, FramewiseCategorical, Gaussian
from tests.torch import networks as nets
from tests.torch.products import FISHER, NETWORKS, product


@pytest.mark.parametrize("name", NETWORKS)
def test_newton_product_and_gradient(name):
    model, batch = nets.case(name)
    found, v, gradient = product(model, batch, Hessian())

    def loss(m):
        return nets.cross_entropy(m(batch[0]), batch)

    assert nets.relative_error(found, nets.dense_hessian(model, loss) @ v) < 1e-10
    expected = nets.dense_jacobian(model, loss)[0]
    assert nets.relative_error(gradient, expected) < 1e-10


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("by_batch", [True, False], ids=["by_batch", "by_running"])
def test_fisher_product(name, by_batch):
    model, batch = nets.case(name)
    if not by_batch:
        model = nets.with_running_statistics(model)
    found, v, gradient = product(model, batch, FISHER)
    jacobian = nets.dense_jacobian(model, lambda m: m(batch[0]))
    logits = copy_outputs(model, batch)
    expected = jacobian.T @ (nets.kullback_leibler_hessian(logits) @ (jacobian @ v)) / len(batch[0])
    assert nets.relative_error(found, expected) < 1e-10
    slope = nets.dense_jacobian(model, lambda m: nets.cross_entropy(m(batch[0]), batch))[0]
    assert nets.relative_error(gradient, slope) < 1e-10


def copy_outputs(model, batch):
    at, theta = nets.of_parameters(model, lambda m: m(batch[0]))
    return at(theta)


def test_loss_hessian_product_is_the_linearised_networks():
    model, (x, _) = nets.case("mlp")
    batch = (x, torch.rand(6, nets.CLASSES, dtype=torch.float64))

    def quartic(outputs, batch):
        return ((outputs - batch[1]) ** 4).mean()

    found, v, _ = product(model, batch, GaussNewton(metric=LossHessian()), loss_fn=quartic)
    jacobian = nets.dense_jacobian(model, lambda m: m(x))
    gap = (copy_outputs(model, batch) - batch[1]).reshape(-1)
    middle = torch.diag(12 * gap**2) / gap.numel()
    # Without an output metric the loss counts as the mean over examples.
    assert nets.relative_error(found, jacobian.T @ middle @ jacobian @ v) < 1e-10


@pytest.mark.parametrize("metric", [LossHessian(), Categorical()])
def test_loss_hessian_of_cross_entropy_is_its_fisher(metric):
    model, batch = nets.case("attention")
    found, v, _ = product(model, batch, GaussNewton(metric=metric))
    jacobian = nets.dense_jacobian(model, lambda m: m(batch[0]))
    middle = nets.kullback_leibler_hessian(copy_outputs(model, batch)) / len(batch[0])
    assert nets.relative_error(found, jacobian.T @ middle @ jacobian @ v) < 1e-10


@pytest.mark.parametrize("form", ["scalar", "tuple"])
def test_masked_loss_and_metric(form):
    model, (x, y) = nets.case("mlp")
    mask = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    batch = {"x": x, "y": y, "mask": mask}

    def loss_fn(outputs, batch):
        each = nn.functional.cross_entropy(outputs, batch["y"], reduction="none")
        summed, count = (each * batch["mask"]).sum(), batch["mask"].sum()
        return summed / count if form == "scalar" else (summed, count)

    options = {
        "outputs_fn": lambda model, batch: model(batch["x"]),
        "weights_fn": lambda batch: batch["mask"],
        "loss_fn": loss_fn,
    }
    found, v, gradient = product(model, batch, FISHER, **options)
    jacobian = nets.dense_jacobian(model, lambda m: m(x))
    middle = nets.kullback_leibler_hessian(copy_outputs(model, (x, y)), mask) / mask.sum()
    assert nets.relative_error(found, jacobian.T @ middle @ jacobian @ v) < 1e-10
    chunked, _, chunked_gradient = product(model, batch, FISHER, chunk_size=4, **options)
    assert nets.relative_error(chunked, found) < 1e-12
    assert nets.relative_error(chunked_gradient, gradient) < 1e-12


def test_sum_reduction_is_the_mean_times_the_normaliser():
    model, batch = nets.case("mlp")
    mean, _, mean_gradient = product(model, batch, FISHER)
    summed, _, gradient = product(model, batch, GaussNewton(metric=Categorical(), reduction="sum"))
    assert nets.relative_error(summed, 6.0 * mean) < 1e-14
    assert torch.equal(gradient, mean_gradient)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("curvature", [Hessian(), FISHER], ids=["newton", "fisher"])
def test_chunks_add_up_to_the_whole(name, curvature):
    model, batch = nets.case(name)
    # Otherwise every chunk has its own statistics.
    model = nets.with_running_statistics(model)
    whole, _, gradient = product(model, batch, curvature)
    for size in (1, 4, 6, 100):
        found, _, chunk_gradient = product(model, batch, curvature, chunk_size=size)
        assert nets.relative_error(found, whole) < 1e-12
        assert nets.relative_error(chunk_gradient, gradient) < 1e-12


class WithIntermediate(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, nets.CLASSES)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x, everything=False):
        hidden = torch.tanh(self.first(x))
        outputs = self.second(hidden)
        return (outputs, {"hidden": hidden, "input": x}) if everything else outputs


@pytest.mark.parametrize("with_output", [True, False])
def test_metrics_on_intermediate_layers(with_output):
    torch.manual_seed(0)
    model, (_, batch) = WithIntermediate().double(), nets.case("mlp")
    weights = {"hidden": torch.tensor([1.0, 0.0, 3.0, 1.0, 1.0, 1.0]).double()}
    curvature = GaussNewton(
        metric=Categorical() if with_output else None,
        intermediate={"hidden": Gaussian(precision=0.5), "input": Gaussian()},
    )
    found, v, _ = product(
        model,
        batch,
        curvature,
        outputs_fn=lambda model, batch: model(batch[0], everything=True),
        weights_fn=lambda batch: weights,
    )
    hidden = nets.dense_jacobian(model, lambda m: m(batch[0], True)[1]["hidden"])
    scale = 0.5 * weights["hidden"].repeat_interleave(5)
    expected = hidden.T @ (scale * (hidden @ v))
    if with_output:
        jacobian = nets.dense_jacobian(model, lambda m: m(batch[0]))
        middle = nets.kullback_leibler_hessian(copy_outputs(model, batch))
        expected = expected + jacobian.T @ (middle @ (jacobian @ v))
    assert nets.relative_error(found, expected / 6) < 1e-10


def test_connectionist_temporal_classification():
    torch.manual_seed(0)
    model = nn.Linear(2, nets.CLASSES).double()
    frames = torch.tensor([5, 3, 4])
    batch = {
        "x": torch.randn(3, 5, 2, dtype=torch.float64),
        "frames": frames,
        "labels": torch.tensor([[1, 2], [2, 2], [1, 1]]),
        "lengths": torch.tensor([2, 1, 2]),
    }

    def loss_fn(outputs, batch):
        each = nn.functional.ctc_loss(
            outputs.log_softmax(-1).transpose(0, 1),
            batch["labels"],
            batch["frames"],
            batch["lengths"],
            reduction="none",
        )
        return each.mean()

    def valid(batch):
        return torch.arange(5) < batch["frames"][:, None]

    options = {
        "outputs_fn": lambda model, batch: model(batch["x"]),
        "weights_fn": valid,
        "loss_fn": loss_fn,
    }
    curvature = GaussNewton(metric=FramewiseCategorical())
    found, v, gradient = product(model, batch, curvature, **options)
    jacobian = nets.dense_jacobian(model, lambda m: m(batch["x"]))
    logits = copy_outputs(model, (batch["x"], None))
    middle = nets.kullback_leibler_hessian(logits, valid(batch).double()) / 3
    assert nets.relative_error(found, jacobian.T @ middle @ jacobian @ v) < 1e-10
    slope = nets.dense_jacobian(model, lambda m: loss_fn(m(batch["x"]), batch))[0]
    assert nets.relative_error(gradient, slope) < 1e-10
    chunked, _, _ = product(model, batch, curvature, chunk_size=2, **options)
    assert nets.relative_error(chunked, found) < 1e-12


def test_a_loss_without_second_derivative_is_explained():
    model = nn.Linear(2, nets.CLASSES).double()
    batch = (torch.randn(2, 5, 2, dtype=torch.float64), torch.tensor([[1, 2], [2, 1]]))

    def loss_fn(outputs, batch):
        lengths = torch.full((len(outputs),), 5), torch.full((len(outputs),), 2)
        return nn.functional.ctc_loss(outputs.log_softmax(-1).transpose(0, 1), batch[1], *lengths)

    for curvature in (Hessian(), GaussNewton(metric=LossHessian())):
        with pytest.raises(RuntimeError, match="not implemented") as caught:
            product(model, batch, curvature, loss_fn=loss_fn)
        assert "FramewiseCategorical" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("metric", "loss"),
    [
        (Bernoulli(), nn.functional.binary_cross_entropy_with_logits),
        (Gaussian(precision=2.0), nn.functional.mse_loss),
    ],
)
def test_fisher_of_a_generalised_linear_model_is_its_hessian(metric, loss):
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    batch = (torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64))
    found, v, _ = product(
        model, batch, GaussNewton(metric=metric), loss_fn=lambda outputs, b: loss(outputs, b[1])
    )
    hessian = nets.dense_hessian(model, lambda m: loss(m(batch[0]), batch[1]))
    assert nets.relative_error(found, hessian @ v) < 1e-10


@pytest.mark.parametrize("chunk_size", [None, 4])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("curvature", [FISHER, GaussNewton(metric=LossHessian())])
def test_gram_matrix_is_that_of_the_products(name, curvature, chunk_size):
    """Two directions of every parameter, which name nothing else."""
    model, batch = nets.case(name)
    problem = llqr.torch.linearise(
        model, nets.cross_entropy, batch, curvature=curvature, chunk_size=chunk_size
    )
    quadratic = quadratic_model(curvature, problem)
    pair = [nets.random_direction(model, seed) for seed in range(2)]

    def group(name):
        return Directions(
            count=2, combine=lambda e: {name: e[0] * pair[0][name] + e[1] * pair[1][name]}
        )

    directions = [
        {name: d[name] if name == moved else torch.zeros_like(d[name]) for name in d}
        for moved in pair[0]
        for d in pair
    ]
    products = torch.stack([nets.flatten(quadratic.curvature_product(d)) for d in directions])
    expected = torch.stack([nets.flatten(d) for d in directions]) @ products.T
    gram = quadratic.gram([group(name) for name in pair[0]])
    assert nets.relative_error(gram, expected) < 1e-12


def test_a_direction_that_names_nothing_is_zero():
    model, batch = nets.case("mlp")
    problem = llqr.torch.linearise(model, nets.cross_entropy, batch, curvature=FISHER)
    tangent = problem.sum_over_chunks(lambda chunk: chunk.jvp({}))["output"]
    assert torch.equal(tangent, torch.zeros(6, nets.CLASSES, dtype=torch.float64))


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_loss_and_gradient_at_another_point_leaves_parameters_and_products_alone(chunk_size):
    model, batch = nets.case("recurrent")
    before = {name: (p, p.data_ptr(), p.detach().clone()) for name, p in model.named_parameters()}
    problem = llqr.torch.linearise(
        model, nets.cross_entropy, batch, curvature=FISHER, chunk_size=chunk_size
    )
    quadratic = quadratic_model(FISHER, problem)
    step = nets.random_direction(model)
    product_before = nets.flatten(quadratic.curvature_product(step))
    loss, gradient = quadratic.loss_and_gradient(step)
    assert torch.equal(nets.flatten(quadratic.curvature_product(step)), product_before)
    for name, parameter in model.named_parameters():
        same, pointer, value = before[name]
        assert parameter is same
        assert parameter.data_ptr() == pointer
        assert torch.equal(parameter, value)
    at, theta = nets.of_parameters(model, lambda m: nets.cross_entropy(m(batch[0]), batch))
    moved = (theta + nets.flatten(step)).requires_grad_()
    expected = at(moved)
    assert abs(float(loss - expected.detach())) < 1e-12
    alone = quadratic.loss(step)
    assert not alone.requires_grad
    assert abs(float(alone - expected.detach())) < 1e-12
    assert abs(float(quadratic.initial_loss() - at(theta).detach())) < 1e-12
    (slope,) = torch.autograd.grad(expected, moved)
    assert nets.relative_error(nets.flatten(gradient), slope) < 1e-10


def test_parameters_that_the_model_does_not_use_get_zeros():
    torch.manual_seed(0)
    model, (_, batch) = WithIntermediate().double(), nets.case("mlp")
    for curvature in (Hessian(), FISHER):
        problem = llqr.torch.linearise(model, nets.cross_entropy, batch, curvature=curvature)
        quadratic = quadratic_model(curvature, problem)
        result = quadratic.curvature_product(nets.random_direction(model))
        assert torch.equal(result["unused"], torch.zeros(2, dtype=torch.float64))
        assert torch.equal(quadratic.gradient["unused"], torch.zeros(2, dtype=torch.float64))
        assert float(result["first.weight"].norm()) > 0


def test_second_derivatives_that_are_constant_give_zeros():
    torch.manual_seed(0)
    model, (_, batch) = nn.Linear(4, 2).double(), nets.case("mlp")
    for curvature in (Hessian(), GaussNewton(metric=LossHessian())):
        found, _, gradient = product(
            model, batch, curvature, loss_fn=lambda outputs, batch: outputs.mean()
        )
        assert torch.equal(found, torch.zeros_like(found))
        assert float(gradient.norm()) > 0


def test_sparse_embedding_counts_as_a_dense_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Tanh(), nn.Linear(4, nets.CLASSES))
    model, batch = model.double(), (torch.tensor([1, 6, 1, 3]), torch.tensor([0, 1, 2, 0]))
    sparse = product(model, batch, FISHER)[0]
    assert model[0].sparse
    model[0].sparse = False
    assert torch.equal(sparse, product(model, batch, FISHER)[0])
