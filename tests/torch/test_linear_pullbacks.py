"""Layers with linear pullbacks are torch's own, but for what their forward products cost."""

import copy
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import llqr.torch
from llqr.curvature import GaussNewton, Hessian, quadratic_model
from llqr.directions import Directions
from llqr.divergences import Gaussian
from llqr.torch.linear_pullbacks import LinearPullbacks
from llqr.torch.linearisation import TorchLinearisation
from llqr.torch.passes import CurvaturePass
from tests.torch import networks as nets

FISHER = GaussNewton(metric=Gaussian())

LAYERS = {
    "convolution of sequences": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (3, 2, 7)),
    "convolution of images": (lambda: nn.Conv2d(2, 4, (3, 2), padding=(1, 0)), (3, 2, 5, 4)),
    "convolution of volumes": (lambda: nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 4, 3)),
    "groups and dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=2, groups=2), (2, 4, 6, 6)),
    "transposed, sequences": (lambda: nn.ConvTranspose1d(2, 3, 3, stride=2), (3, 2, 4)),
    "transposed, images": (
        lambda: nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1, groups=2, bias=False),
        (2, 4, 3, 4),
    ),
    "transposed, volumes": (lambda: nn.ConvTranspose3d(1, 2, 2), (2, 1, 2, 3, 2)),
    "layer norm": (lambda: nn.LayerNorm(5), (3, 4, 5)),
    "layer norm of one axis alone": (lambda: nn.LayerNorm(5, bias=False), (3, 5)),
    "layer norm of two axes": (lambda: nn.LayerNorm((4, 5)), (3, 4, 5)),
    "layer norm of all axes": (lambda: nn.LayerNorm((3, 4)), (3, 4)),
    "layer norm without weights": (lambda: nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
    "batch norm of vectors": (lambda: nn.BatchNorm1d(4), (6, 4)),
    "batch norm of sequences": (lambda: nn.BatchNorm1d(4), (6, 4, 3)),
    "batch norm of images": (lambda: nn.BatchNorm2d(2), (3, 2, 4, 4)),
    "batch norm over vectors": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (6, 4)),
    "batch norm over sequences": (
        lambda: nn.BatchNorm1d(4, track_running_stats=False),
        (6, 4, 3),
    ),
    "batch norm over images": (
        lambda: nn.BatchNorm2d(2, track_running_stats=False),
        (3, 2, 4, 4),
    ),
    "batch norm over images without weights": (
        lambda: nn.BatchNorm2d(2, affine=False, track_running_stats=False),
        (3, 2, 4, 4),
    ),
    "batch norm without weights": (lambda: nn.BatchNorm3d(2, affine=False), (2, 2, 2, 3, 2)),
}
ELSEWHERE = {
    "circular border": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        (2, 2, 4, 4),
    ),
    "border by name": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 2, 4, 4)),
    "one image": (lambda: nn.Conv2d(2, 3, 3), (2, 4, 4)),
}


class Around(nn.Module):
    """A layer between two linear ones, so that what goes in and out depends on parameters."""

    def __init__(self, make, shape):
        super().__init__()
        self.before = nn.Linear(shape[-1], shape[-1])
        self.layer = make()
        self.after = nn.Linear(self.layer(torch.randn(shape)).shape[-1], 2)

    def forward(self, x):
        return self.after(self.layer(self.before(x)).tanh())


def network(make, shape):
    """Return a network in inference mode, its batch, and a random direction; float64."""
    torch.manual_seed(0)
    model = Around(make, shape).double()
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
        for parameter in module.parameters(recurse=False):
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval(), (torch.randn(shape).double(),), nets.random_direction(model)


def half_square(outputs, batch):
    return 0.5 * (outputs**2).sum(), float(len(outputs))


def forward_product(model, batch, direction, **options):
    problem = llqr.torch.linearise(model, half_square, batch, curvature=FISHER, **options)
    return problem.sum_over_chunks(lambda chunk: chunk.jvp(direction))["output"]


def from_jacobian(model, batch, direction):
    """Return J v from J, which takes first derivatives of torch's own layers only."""
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    rows = torch.func.jacrev(lambda values: functional_call(model, values, batch[:1]))(parameters)
    return sum(torch.tensordot(rows[n], v, v.ndim) for n, v in direction.items())


@pytest.mark.parametrize("name", [*LAYERS, *ELSEWHERE])
def test_forward_products_are_those_of_the_jacobian(name):
    model, batch, direction = network(*(LAYERS | ELSEWHERE)[name])
    # A product may vanish: a shift before statistics of the batch moves nothing.
    scale = from_jacobian(model, batch, direction).norm()
    for moved in [list(direction), *([n] for n in direction)]:
        part = {n: direction[n] for n in moved}
        full = {n: v if n in moved else torch.zeros_like(v) for n, v in direction.items()}
        error = forward_product(model, batch, part) - from_jacobian(model, batch, full)
        assert error.norm() < 1e-12 * scale


@pytest.mark.parametrize("name", LAYERS)
def test_batches_of_directions_go_through_at_once(name):
    model, batch, direction = network(*LAYERS[name])
    problem = llqr.torch.linearise(model, half_square, batch, curvature=FISHER)
    rows = torch.stack([nets.flatten(direction), nets.flatten(direction).flip(0)])
    shapes = {n: p.shape for n, p in model.named_parameters()}
    splits = [p.numel() for p in model.parameters()]

    def product(row):
        parts = zip(shapes.items(), row.split(splits), strict=True)
        return problem.sum_over_chunks(
            lambda chunk: chunk.jvp({n: part.reshape(shape) for (n, shape), part in parts})
        )["output"]

    expected = torch.stack([product(row) for row in rows])
    assert nets.relative_error(torch.vmap(product)(rows), expected) < 1e-13


@pytest.mark.parametrize("name", LAYERS)
def test_everything_else_is_torchs_own_to_the_last_bit(name):
    model, batch, direction = network(*LAYERS[name])
    expected = model(*batch)
    loss = half_square(expected, batch)[0]
    gradient = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
    along = torch.autograd.grad(gradient, list(model.parameters()), list(direction.values()))
    problem = llqr.torch.linearise(model, half_square, batch, curvature=Hessian())
    found = problem.sum_over_chunks(
        lambda chunk: {
            "output": chunk.outputs["output"],
            "gradient": chunk.gradient(),
            "product": chunk.hessian_product(direction),
        }
    )
    assert torch.equal(found["output"], expected)
    assert all(map(torch.equal, found["gradient"].values(), gradient))
    assert nets.relative_error(nets.flatten(found["product"]), _flat(along)) < 1e-13


@pytest.mark.parametrize("name", LAYERS)
def test_linear_pullbacks_are_torchs_at_any_cotangent(name):
    model, batch, _ = network(*LAYERS[name])
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(*batch).sum(), parameters)
    pass_ = CurvaturePass(model, torch.device("cpu"))
    with pass_.active():
        total = model(*batch).sum()
        with pass_.pullbacks.switched_on():
            found = torch.autograd.grad(total, parameters)
    assert nets.relative_error(_flat(found), _flat(expected)) < 1e-13


class Operations(TorchDispatchMode):
    """Counts operations by kind."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("moved", "products"), [("0.weight", 3), ("2.weight", 2), ("4.weight", 1)])
def test_a_convolution_costs_one_product_per_tangent(moved, products):
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(2, 2, 3, padding=1, bias=False) for _ in range(3)]
    parts = [part for layer in convolutions for part in (layer, nn.Tanh())]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(32, 2)).double()
    batch = (torch.randn(3, 2, 4, 4).double(),)
    direction = nets.random_direction(model)
    problem = llqr.torch.linearise(model, half_square, batch, curvature=FISHER)
    problem.sum_over_chunks(lambda chunk: chunk.jvp(direction))
    with Operations() as operations:
        problem.sum_over_chunks(lambda chunk: chunk.jvp({moved: direction[moved]}))
    assert operations.counts[torch.ops.aten.convolution.default] == products
    assert operations.counts[torch.ops.aten.convolution_backward.default] == 0


@pytest.mark.parametrize("name", ["layer norm", "batch norm of images", "batch norm over images"])
def test_a_normalisation_takes_less_than_a_quarter_of_torchs_operations(name):
    make, shape = LAYERS[name]
    layer, x = make().double().eval(), torch.randn(shape).double().requires_grad_()
    counts = []
    pass_ = CurvaturePass(layer, torch.device("cpu"))
    for outer, inner in (
        (nullcontext, nullcontext),
        (pass_.active, pass_.pullbacks.switched_on),
    ):
        with outer():
            value = layer(x)
            u = torch.zeros_like(value, requires_grad=True)
            inputs = [x, *layer.parameters()]
            with inner():
                pulled = torch.autograd.grad(value, inputs, u, create_graph=True)
        directions = [torch.ones_like(value) for value in inputs]
        with Operations() as operations:
            torch.autograd.grad(pulled, u, directions)
        counts.append(operations.counts.total())
    assert counts[1] < counts[0] / 4


class Differentiated(nn.Module):
    """Puts out derivatives of its layers in what goes in, so that J holds second ones."""

    def __init__(self, checkpointed):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))
        self.filter = nn.Conv1d(1, 2, 2)
        self.checkpointed = checkpointed

    def slope(self, x):
        x = x.clone().requires_grad_()
        energy = self.layers(x).sum() + self.filter(x[:, None]).tanh().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    def forward(self, x):
        if self.checkpointed:
            return checkpoint(self.slope, x, use_reentrant=False)
        return self.slope(x)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_models_that_differentiate_themselves_keep_their_second_derivatives(checkpointed):
    torch.manual_seed(0)
    model = Differentiated(checkpointed).double()
    batch = (torch.randn(3, 4).double(),)
    direction = nets.random_direction(model)
    step = 1e-5
    sides = []
    for sign in (1.0, -1.0):
        moved = copy.deepcopy(model)
        for name, value in moved.named_parameters():
            value.data += sign * step * direction[name]
        sides.append(moved(*batch).detach())
    expected = (sides[0] - sides[1]) / (2.0 * step)
    assert nets.relative_error(forward_product(model, batch, direction), expected) < 1e-8


class Scaled(nn.Conv1d):
    """A subclass that computes something else."""

    def forward(self, input):
        return 3.0 * super().forward(input)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1)])
def test_one_value_per_channel_is_normalised_by_running_statistics(shape):
    """torch refuses it in training, and a chunk or half of a batch may come to that."""
    layer = nn.BatchNorm1d(3).double()
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    x = torch.randn(shape).double()
    with CurvaturePass(layer, torch.device("cpu")).active():
        assert layer.training
        found = layer(x)
    assert torch.equal(found, layer.eval()(x))


def test_inputs_that_a_batch_norm_does_not_take_are_refused():
    layer = nn.BatchNorm2d(3)
    with (
        CurvaturePass(layer, torch.device("cpu")).active(),
        pytest.raises(ValueError, match="expected 4D input"),
    ):
        layer(torch.randn(4, 3))


def test_layers_that_are_not_torchs_own_are_left_alone():
    pullbacks = LinearPullbacks()
    for module in (Scaled(1, 1, 1), nn.Linear(2, 2), nn.InstanceNorm1d(2), nn.GroupNorm(1, 2)):
        assert pullbacks.forward_of(module) is None
    model, batch, direction = network(lambda: Scaled(2, 4, 3), (3, 2, 7))
    expected = from_jacobian(model, batch, direction)
    assert nets.relative_error(forward_product(model, batch, direction), expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_numbers_stay_with_torchs_kernels(dtype):
    module = nn.LayerNorm(4).to(dtype)
    forward = LinearPullbacks().forward_of(module)
    x = torch.randn(3, 4).to(dtype)
    assert forward is not None
    assert "LayerNorm" in type(forward(x).grad_fn).__name__
    module.float()
    assert "_Layer" in type(forward(x.float()).grad_fn).__name__


class Ensemble(nn.Module):
    """Runs one layer with several weights through a transform of functions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(1, 1, 2)
        self.weights = nn.Parameter(torch.randn(3, 1, 1, 2))

    def forward(self, x):
        def member(weight):
            return functional_call(self.layer, {"weight": weight}, x[:, None])

        return torch.vmap(member)(self.weights).tanh().sum(0).flatten(1)


def test_layers_inside_of_transforms_of_functions_are_torchs_own():
    torch.manual_seed(0)
    model = Ensemble().double()
    batch = (torch.randn(3, 4).double(),)
    direction = nets.random_direction(model)
    expected = from_jacobian(model, batch, direction)
    assert nets.relative_error(forward_product(model, batch, direction), expected) < 1e-12


def test_a_pass_gives_the_layers_back():
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.LayerNorm(3))
    model[1].forward = replaced = lambda x: x
    pass_ = CurvaturePass(model, torch.device("cpu"))
    with pytest.raises(KeyError), pass_.active():
        assert "forward" in vars(model[0])
        assert vars(model[1])["forward"] is replaced
        with pass_.active():  # passes nest
            assert "forward" in vars(model[0])
        assert "forward" in vars(model[0])
        raise KeyError
    assert "forward" not in vars(model[0])
    assert vars(model[1])["forward"] is replaced


def _flat(values):
    return torch.cat([value.flatten() for value in values])


@pytest.mark.parametrize(
    "name",
    ["convolution of images", "layer norm", "batch norm of images", "batch norm over images"],
)
def test_gram_matrices_take_one_batch_of_products_per_group(name, monkeypatch):
    model, batch, direction = network(*LAYERS[name])
    tangents = []
    for moved in direction:
        part = {n: v if n == moved else torch.zeros_like(v) for n, v in direction.items()}
        tangents.append(from_jacobian(model, batch, part).flatten())
    stacked = torch.stack([*tangents, *(2.0 * tangent for tangent in tangents)])
    taken = []

    def product(self, moved):
        taken.append(sorted(moved))
        return plain(self, moved)

    plain = TorchLinearisation._forward_product
    monkeypatch.setattr(TorchLinearisation, "_forward_product", product)
    groups = [
        Directions(count=2, combine=lambda e, n=n: {n: (e[0] + 2.0 * e[1]) * direction[n]})
        for n in direction
    ]
    problem = llqr.torch.linearise(model, half_square, batch, curvature=FISHER)
    found = quadratic_model(FISHER, problem).gram(groups)
    order = torch.arange(len(stacked)).reshape(2, -1).T.flatten()
    expected = (stacked @ stacked.T)[order][:, order] / len(batch[0])
    assert nets.relative_error(found, expected) < 1e-12
    assert taken == [[n] for n in direction]
