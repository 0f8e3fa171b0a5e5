"""Curvature products of single- and low-precision networks."""

import pytest
import torch

import llqr.torch
from llqr.curvature import Hessian, quadratic_model
from tests.torch import networks as nets
from tests.torch.products import FISHER, product


@pytest.mark.parametrize("name", ["recurrent", "attention", "encoder", "convolution"])
def test_single_precision_kernels_have_the_derivatives_too(name):
    """In float32 torch would choose fused recurrent and attention kernels."""
    model, batch = nets.case(name)
    single, (x, y) = nets.copy.deepcopy(model).float(), batch
    x = x.float() if x.is_floating_point() else x
    for curvature in (Hessian(), FISHER):
        expected = product(model, batch, curvature)[0]
        found = product(single, (x, y), curvature)[0]
        assert found.dtype == torch.float32
        assert nets.relative_error(found.double(), expected) < 1e-4


def test_low_precision_parameters_give_products_in_single_precision():
    model, (x, y) = nets.case("mlp")
    low = nets.copy.deepcopy(model).bfloat16()
    exact = nets.copy.deepcopy(low).double()
    v = nets.random_direction(low)
    for curvature in (Hessian(), FISHER):
        problem = llqr.torch.linearise(
            low, nets.cross_entropy, (x.bfloat16(), y), curvature=curvature
        )
        assert problem.sum_over_chunks(lambda chunk: chunk.outputs)["output"].dtype == torch.float32
        found = quadratic_model(curvature, problem).curvature_product(v)
        assert {value.dtype for value in found.values()} == {torch.float32}
        other = llqr.torch.linearise(
            exact, nets.cross_entropy, (x.bfloat16().double(), y), curvature=curvature
        )
        expected = quadratic_model(curvature, other).curvature_product(
            {name: value.double() for name, value in v.items()}
        )
        error = nets.relative_error(nets.flatten(found).double(), nets.flatten(expected))
        assert error < 0.03  # bfloat16 carries 8 bits
