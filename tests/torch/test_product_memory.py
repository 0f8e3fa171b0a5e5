"""What curvature products keep alive, and what they recompute."""

import sys
import weakref

import pytest

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
