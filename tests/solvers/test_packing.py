"""Factors, steps and gradients as single vectors: the same numbers, in the same places."""

import numpy as np
import pytest

from llqr.solvers.packing import FactorPacking, PackedProblem, Packing, dot
from llqr.structures import EKFAC, Diagonal, Kronecker
from tests.solvers.quadratics import BACKEND, SHAPES, SIZE, Case, flatten, unflatten, vector

STRUCTURES = [Diagonal(), Kronecker(), EKFAC()]


def disturbed(rng, factors):
    """Return factors of the same form with random numbers in them."""
    return {
        block: {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in own.items()}
        for block, own in factors.items()
    }


def test_joining_and_splitting_undo_each_other(rng):
    values = unflatten(rng.standard_normal(SIZE))
    packing = Packing(BACKEND, values)
    np.testing.assert_array_equal(packing.join(values), flatten(values))
    parts = packing.split(packing.join(values))
    assert {name: part.shape for name, part in parts.items()} == SHAPES
    for name, part in parts.items():
        np.testing.assert_array_equal(part, values[name])


def test_arrays_are_joined_by_name_whatever_their_order(rng):
    values = unflatten(rng.standard_normal(SIZE))
    packing = Packing(BACKEND, values)
    backwards = dict(reversed(values.items()))
    np.testing.assert_array_equal(packing.join(backwards), packing.join(values))


def test_factors_keep_their_dtypes_and_empty_ones_their_place():
    like = {
        "b": {"s": np.ones(2, np.float32), "t": np.ones((2, 2), np.float64)},
        "a": {"s": np.ones(0, np.float32)},
    }
    packing = FactorPacking(BACKEND, like)
    assert packing.join(like).shape == (6,)
    split = packing.split(np.arange(6.0))
    assert list(split) == ["b", "a"] and split["a"]["s"].shape == (0,)
    assert split["b"]["s"].dtype == np.float32 and split["b"]["t"].dtype == np.float64
    np.testing.assert_array_equal(split["b"]["t"], [[2.0, 3.0], [4.0, 5.0]])


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: type(s).__name__)
def test_a_packed_problem_has_the_numbers_of_the_problem(rng, structure):
    case = Case(rng, structure, damping=0.3)
    problem, factors = case.problem, disturbed(rng, case.start())
    tangent = disturbed(rng, case.start())
    packed, inputs = PackedProblem(problem, factors), case.problem.inputs()
    f, d = packed.join(factors), packed.join(tangent)
    step = problem.step(inputs, factors)
    objective, gradient, residual = problem.evaluate(inputs, factors)
    np.testing.assert_allclose(packed.step(f), flatten(step), rtol=1e-14)
    moved = problem.step_tangent(inputs, factors, tangent)
    np.testing.assert_allclose(packed.step_tangent(f, d), flatten(moved), rtol=1e-13, atol=1e-14)
    full = case.matrix + case.damping * np.eye(SIZE)
    np.testing.assert_allclose(packed.product(flatten(step)), full @ flatten(step), rtol=1e-12)
    r = packed.loss_gradient + packed.product(packed.step(f))
    np.testing.assert_allclose(r, flatten(residual), rtol=1e-12)
    np.testing.assert_allclose(packed.value(packed.step(f), r), objective, rtol=1e-12)
    found = packed.split(packed.gradient(f, r))
    np.testing.assert_allclose(vector(case, found), vector(case, gradient), rtol=1e-11)
    np.testing.assert_allclose(dot(BACKEND, f, d), (f * d).sum(), rtol=1e-14)


def test_a_packed_problem_projects_and_finds_the_block_that_is_not_finite(rng):
    case = Case(rng, Diagonal(floor=0.5))
    factors = case.start()
    factors["b.weight"]["d"][:] = -1.0
    packed = PackedProblem(case.problem, factors)
    projected = packed.split(packed.project(packed.join(factors)))
    np.testing.assert_array_equal(projected["b.weight"]["d"], 0.5)
    factors["b.weight"]["d"][0] = np.nan
    assert case.blocks[int(packed.bad_block(packed.join(factors)))].name == "b.weight"
    assert int(packed.bad_block(packed.join(case.start()))) == -1
