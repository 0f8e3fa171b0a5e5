"""What curvature products keep alive, what they recompute, and what they leave out."""

import sys
import weakref

import pytest
import torch

import llqr.torch
from llqr.curvature import Hessian
from llqr.torch import linearisation
from tests.torch import networks as nets
from tests.torch.products import FISHER, NETWORKS, product


def test_activation_checkpoints_are_recomputed_in_inference_mode():
    from torch.utils.checkpoint import checkpoint

    model, batch = nets.case("convolution")

    def checkpointed(model, batch):
        return model[4:](checkpoint(model[:4], batch[0], use_reentrant=False))

    for curvature in (Hessian(), FISHER):
        expected = product(model, batch, curvature)[0]
        found = product(model, batch, curvature, outputs_fn=checkpointed)[0]
        assert nets.relative_error(found, expected) < 1e-12


def test_one_chunk_is_alive_at_a_time_and_nothing_after_the_products(monkeypatch):
    """Graphs hold the memory of a pass, so chunks bound it only if each dies before the next."""
    created = []

    class Watched(linearisation.TorchLinearisation):
        def __init__(self, *arguments):
            assert all(reference() is None for reference in created)
            super().__init__(*arguments)
            created.append(weakref.ref(self))

    monkeypatch.setattr(sys.modules["llqr.torch.linearise"], "TorchLinearisation", Watched)
    model, batch = nets.case("attention")
    for curvature in (Hessian(), FISHER):
        product(model, batch, curvature, chunk_size=2)
        assert all(reference() is None for reference in created)
    assert len(created) == 2 * 2 * 3  # two sums over three chunks for each curvature
    product(model, batch, FISHER)
    assert created[-1]() is None
    assert len(created) == 13  # a single chunk is linearised once for all products


@pytest.mark.parametrize("name", NETWORKS)
def test_the_forward_products_graph_keeps_no_zeros(name, monkeypatch):
    """Half of that graph is zero at u = 0; it must not take memory, and products must not change."""
    model, batch = nets.case(name)
    expected = product(model, batch, FISHER)[0]
    stored, replaced = [], []

    def without_zeros(saved):
        packed = plain(saved)
        (stored if packed is saved else replaced).append(saved)
        return packed

    plain = linearisation._without_zeros
    monkeypatch.setattr(linearisation, "_SMALL", 0)
    monkeypatch.setattr(linearisation, "_without_zeros", without_zeros)
    found = product(model, batch, FISHER)[0]
    assert nets.relative_error(found, expected) < 1e-14
    assert replaced
    assert all(bool(saved.any()) for saved in stored)


class _Slope(torch.autograd.Function):
    """Multiplies a cotangent by 2, and counts how often a tangent goes through instead."""

    tangents = 0

    @staticmethod
    def forward(ctx, cotangent):
        return 2.0 * cotangent

    @staticmethod
    def backward(ctx, tangent):
        _Slope.tangents += 1
        return 2.0 * tangent


class _Twice(torch.autograd.Function):
    """Multiplies by 2."""

    @staticmethod
    def forward(ctx, x):
        return 2.0 * x

    @staticmethod
    def backward(ctx, cotangent):
        return _Slope.apply(cotangent)


class _TwiceModule(torch.nn.Module):
    def forward(self, x):
        return _Twice.apply(x)


@pytest.mark.parametrize(("moved", "passes"), [("0.weight", 1), ("0.bias", 1), ("2.weight", 0)])
def test_a_tangent_goes_through_the_layers_behind_its_direction_alone(moved, passes, monkeypatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 5), _TwiceModule(), torch.nn.Linear(5, nets.CLASSES)
    ).double()
    batch = nets.case("mlp")[1]
    direction = nets.random_direction(model)
    problem = llqr.torch.linearise(model, nets.cross_entropy, batch, curvature=FISHER)
    full = {
        name: value if name == moved else torch.zeros_like(value)
        for name, value in direction.items()
    }
    expected = problem.sum_over_chunks(lambda chunk: chunk.jvp(full))["output"]
    monkeypatch.setattr(_Slope, "tangents", 0)
    found = problem.sum_over_chunks(lambda chunk: chunk.jvp({moved: direction[moved]}))["output"]
    assert nets.relative_error(found, expected) < 1e-12
    assert _Slope.tangents == passes
