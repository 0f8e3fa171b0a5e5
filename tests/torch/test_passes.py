"""Curvature passes leave no trace, and see the model without its wrappers."""

import pytest
import torch
from torch import nn

import llqr.torch
from llqr.curvature import GaussNewton, Hessian, quadratic_model
from llqr.divergences import Categorical
from llqr.torch.passes import CurvaturePass, named_parameters, unwrap
from tests.torch import networks as nets

FISHER = GaussNewton(metric=Categorical())


def run_products(model, batch, curvature=FISHER, **options):
    problem = llqr.torch.linearise(model, nets.cross_entropy, batch, curvature=curvature, **options)
    quadratic = quadratic_model(curvature, problem)
    inner = {n: p for n, p in named_parameters(model).items() if p.requires_grad}
    return quadratic.curvature_product({name: torch.ones_like(p) for name, p in inner.items()})


class Restless(nn.Module):
    """Changes a buffer, replaces another and draws a random number at every pass, in any mode."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, nets.CLASSES)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("last", torch.zeros(nets.CLASSES))

    def forward(self, x):
        self.count += 1
        self.last = self.linear(x).mean(0).detach()
        return self.linear(x) + 0.1 * torch.randn(nets.CLASSES, dtype=x.dtype)


@pytest.mark.parametrize("name", ["convolution", "encoder", "recurrent"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_statistics_modes_random_state_and_gradients_stay(name, chunk_size):
    model, batch = nets.case(name)
    next(model.children()).eval()  # a mixed state must come back as it was
    modes = [module.training for module in model.modules()]
    buffers = {n: (b, b._version, b.clone()) for n, b in model.named_buffers()}
    nets.cross_entropy(model(batch[0]), batch).backward()
    buffers = {n: (b, b._version, b.clone()) for n, b in model.named_buffers()}
    gradients = {n: (p.grad, p.grad.clone()) for n, p in model.named_parameters()}
    random = torch.get_rng_state()
    for curvature in (FISHER, Hessian()):
        run_products(model, batch, curvature, chunk_size=chunk_size)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    for n, b in model.named_buffers():
        same, version, value = buffers[n]
        assert b is same
        assert b._version == version
        assert torch.equal(b, value)
    for n, p in model.named_parameters():
        assert p.grad is gradients[n][0]
        assert torch.equal(p.grad, gradients[n][1])


class OwnNorm(nn.Module):
    """Centres by the batch in training, by a running mean afterwards."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.ones(3))

    def forward(self, x):
        if not self.training:
            return x - self.running_mean
        mean = x.mean(0)
        self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
        return x - mean


NORMS = {
    "batch norm": lambda: nn.BatchNorm1d(3),
    "instance norm": lambda: nn.InstanceNorm1d(3, track_running_stats=True),
    "own": OwnNorm,
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_layers_with_running_statistics_keep_their_mode(name, training, processes, monkeypatch):
    monkeypatch.setattr("llqr.torch.passes.world_size", lambda: processes)
    layer = NORMS[name]().train(training)
    model = nn.Sequential(nn.Dropout(0.5), layer)
    x = torch.randn(4, 3, 5) if name == "instance norm" else torch.randn(4, 3)
    with CurvaturePass(model, torch.device("cpu")).active():
        assert not model[0].training
        found = model(x)
    # A layer of another's making may wait for other processes.
    kept = training and (processes == 1 or name != "own")
    torch.testing.assert_close(found, layer.train(kept)(x), rtol=1e-5, atol=1e-6)


def test_a_module_that_updates_buffers_in_inference_mode_is_undone():
    torch.manual_seed(0)
    model, (_, batch) = Restless().double(), nets.case("mlp")
    count, last, random = model.count, model.last, torch.get_rng_state()
    whole = run_products(model, batch)
    again = run_products(model, batch)
    assert model.count is count
    assert float(count) == 0
    assert model.last is last
    assert float(last.abs().sum()) == 0
    assert torch.equal(torch.get_rng_state(), random)
    # The same random state at every pass makes products repeatable.
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_everything_is_restored_after_an_exception():
    model, batch = nets.case("convolution")
    matmul = torch.backends.mkldnn.enabled
    attention = torch.backends.cuda.flash_sdp_enabled()
    random, buffer = torch.get_rng_state(), model[1].running_mean

    def failing(model, batch):
        assert not model.training
        torch.randn(3)
        raise RuntimeError("from the model")

    with pytest.raises(RuntimeError, match="from the model"):
        run_products(model, batch, outputs_fn=failing)
    assert all(module.training for module in model.modules())
    assert model[1].running_mean is buffer
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mkldnn.enabled == matmul
    assert torch.backends.cuda.flash_sdp_enabled() == attention
    assert torch.is_grad_enabled()


def test_recurrent_kernels_are_switched_back():
    model, _ = nets.case("recurrent")
    mkldnn, cudnn = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    with CurvaturePass(model, torch.device("cpu")).active():
        assert not torch.backends.mkldnn.enabled
        assert not torch.backends.cudnn.enabled
    assert torch.backends.mkldnn.enabled == mkldnn
    assert torch.backends.cudnn.enabled == cudnn


def test_products_ignore_no_grad_and_autocast_around_them():
    model, batch = nets.case("mlp")
    expected = run_products(model, batch)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = run_products(model.float().double(), batch)
        assert torch.is_autocast_enabled("cpu")
    assert all(nets.relative_error(found[name], expected[name]) < 1e-5 for name in expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_and_submodules_run_eagerly(backend):
    model, batch = nets.case("mlp")
    expected = run_products(model, batch, Hessian())
    inner = nn.Sequential(torch.compile(model[0], backend=backend), *model[1:])
    in_place = nets.copy.deepcopy(model)
    in_place.compile(backend=backend)
    for wrapped in (torch.compile(model, backend=backend), inner, in_place):
        nets.cross_entropy(wrapped(batch[0]), batch).backward()
        found = run_products(wrapped, batch, Hessian())
        assert list(found) == list(expected)
        assert all(nets.relative_error(found[n], expected[n]) < 1e-12 for n in found)
        # Afterwards the compiled code serves again.
        assert torch.allclose(wrapped(batch[0]), model(batch[0]))


def test_names_and_module_inside_wrappers():
    model, _ = nets.case("mlp")
    wrapped = torch.compile(nn.DataParallel(torch.compile(model, backend="eager")), backend="eager")
    assert unwrap(wrapped) is model
    assert list(named_parameters(wrapped)) == [name for name, _ in model.named_parameters()]


def test_hooks_of_gradient_accumulation_never_run():
    model, batch = nets.case("mlp")
    calls = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: calls.append(p))
    for curvature in (FISHER, Hessian()):
        run_products(model, batch, curvature)
    assert calls == []
    nets.cross_entropy(model(batch[0]), batch).backward()
    assert len(calls) == 4
