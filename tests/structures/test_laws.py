"""One law suite over every structure, every backend and every odd shape."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from llqr.structures import Dense, Diagonal, Kronecker, LowRank
from tests import backends
from tests.structures import laws

structures = pytest.mark.parametrize("key", laws.STRUCTURES)
shapes = pytest.mark.parametrize("shape", laws.SHAPES, ids=str)


def _case(rng, key, shape):
    block = laws.block_of(laws.STRUCTURES[key], shape)
    factors = laws.random_factors(rng, block)
    x, y = laws.random_input(rng, block), laws.random_input(rng, block)
    return block, factors, x, y, rng.standard_normal(block.block_shape)


@structures
@shapes
def test_laws(rng, key, shape):
    block, factors, x, y, cotangent = _case(rng, key, shape)
    laws.check_identity(block, x)
    laws.check_linear(block, factors, x, y, scale=-2.5)
    laws.check_dense(block, factors, x)
    laws.check_adjoint(block, factors, laws.random_tangent(rng, factors), x, cotangent)
    laws.check_jacobian(block, factors, x, cotangent)


@structures
@settings(max_examples=12, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=4).map(tuple),
    seed=st.integers(0, 2**32 - 1),
    magnitude=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_laws_on_random_shapes(key, shape, seed, magnitude):
    rng = np.random.default_rng(seed)
    block, factors, x, y, cotangent = _case(rng, key, shape)
    laws.check_identity(block, magnitude * x)
    laws.check_linear(block, factors, x, y, scale=magnitude)
    laws.check_dense(block, factors, x)
    laws.check_adjoint(block, factors, laws.random_tangent(rng, factors), x, cotangent)


@structures
@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
@pytest.mark.parametrize("shape", [(), (0, 5), (4,), (4, 3), (2, 3, 2)], ids=str)
def test_frameworks_agree_with_numpy(rng, key, shape, framework):
    backend, to, back = backends.make(framework)
    block, factors, x, _, cotangent = _case(rng, key, shape)
    tangent = laws.random_tangent(rng, factors)
    structure = block.structure
    mine, theirs = ({n: f(v) for n, v in factors.items()} for f in (np.asarray, to))
    tangent_theirs = {n: to(v) for n, v in tangent.items()}
    pairs = [
        (structure.apply(laws.NUMPY, mine, x), structure.apply(backend, theirs, to(x))),
        (
            structure.pushforward(laws.NUMPY, mine, tangent, x),
            structure.pushforward(backend, theirs, tangent_theirs, to(x)),
        ),
        (
            structure.to_dense(laws.NUMPY, mine, block.block_shape),
            structure.to_dense(backend, theirs, block.block_shape),
        ),
    ]
    for own, other in (
        (
            structure.pullback(laws.NUMPY, mine, x, cotangent),
            structure.pullback(backend, theirs, to(x), to(cotangent)),
        ),
        (
            structure.init(laws.NUMPY, block.block_shape, x),
            structure.init(backend, block.block_shape, to(x)),
        ),
        (structure.project(laws.NUMPY, mine), structure.project(backend, theirs)),
    ):
        assert own.keys() == other.keys()
        pairs += [(own[name], other[name]) for name in own]
    for own, other in pairs:
        assert tuple(other.shape) == own.shape
        np.testing.assert_allclose(back(other), own, rtol=1e-12, atol=1e-12)


# torch's own forward mode still uses the jit it deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@structures
@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
def test_derivatives_equal_autodiff(rng, key, framework):
    backend, to, back = backends.make(framework)
    block, factors, x, _, cotangent = _case(rng, key, (4, 3))
    moving = {n: v for n, v in factors.items() if laws.learned(block.structure, n)}
    fixed = {n: to(v) for n, v in factors.items() if n not in moving}
    tangent = laws.random_tangent(rng, moving)

    def apply(own):
        return block.structure.apply(backend, {**own, **fixed}, to(x))

    own = {n: to(v) for n, v in moving.items()}
    if framework == "torch":
        import torch

        own_tangent = {n: to(v) for n, v in tangent.items()}
        _, moved = torch.func.jvp(apply, (own,), (own_tangent,))
        (pulled,) = torch.func.vjp(apply, own)[1](to(cotangent))
    else:
        import jax

        own_tangent = {n: to(v) for n, v in tangent.items()}
        moved = jax.jvp(apply, (own,), (own_tangent,))[1]
        (pulled,) = jax.vjp(apply, own)[1](to(cotangent))
    still = {n: np.zeros(factors[n].shape) for n in fixed}
    got = block.structure.pushforward(laws.NUMPY, factors, {**tangent, **still}, x)
    np.testing.assert_allclose(got, back(moved), rtol=1e-11, atol=1e-11)
    mine = block.structure.pullback(laws.NUMPY, factors, x, cotangent)
    for name in moving:
        np.testing.assert_allclose(mine[name], back(pulled[name]), rtol=1e-11, atol=1e-11)
    for name in fixed:
        np.testing.assert_array_equal(mine[name], 0.0)


@structures
@pytest.mark.parametrize("framework", backends.BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_are_kept(rng, key, framework, dtype):
    backend, to, back = backends.make(framework)
    block = laws.block_of(laws.STRUCTURES[key], (4, 3))
    structure = block.structure
    x = to(laws.random_input(rng, block).astype(dtype))
    cotangent = to(rng.standard_normal(block.block_shape).astype(dtype))
    factors = structure.init(backend, block.block_shape, x)
    results = [
        structure.apply(backend, factors, x),
        structure.pushforward(backend, factors, factors, x),
        structure.to_dense(backend, factors, block.block_shape),
        *structure.pullback(backend, factors, x, cotangent).values(),
        *structure.project(backend, factors).values(),
        *factors.values(),
    ]
    assert {str(back(value).dtype) for value in results} == {dtype}


@structures
@shapes
def test_factors_take_the_memory_that_is_reported(key, shape):
    block = laws.block_of(laws.STRUCTURES[key], shape)
    factors = block.structure.init(laws.NUMPY, block.block_shape, np.zeros(()))
    shapes_ = {name: value.shape for name, value in factors.items()}
    assert shapes_ == block.structure.factor_shapes(block.block_shape)
    assert sum(value.size for value in factors.values()) == block.structure.factor_count(
        block.block_shape
    )


@structures
def test_a_vocabulary_axis_never_becomes_a_square_matrix(key):
    shape = (30_000, 8)
    block = laws.block_of(laws.STRUCTURES[key], shape)
    entries = 30_000 * 8
    count = block.structure.factor_count(block.block_shape)
    # Low rank stores two [n, r] matrices; everything else about one number per entry and an 8 × 8.
    rank = getattr(block.structure, "rank", 0)
    assert count <= (2 * rank if rank else 1) * entries + 30_000 + 8 * 8
    factors = block.structure.init(laws.NUMPY, block.block_shape, np.zeros((), np.float32))
    assert sum(value.nbytes for value in factors.values()) == 4 * count


@pytest.mark.parametrize("key", ["kronecker", "ekfac", "separable_ekfac"])
@pytest.mark.parametrize("cap", [1, 3, 4, 6])
def test_no_factor_is_a_matrix_beyond_the_cap(key, cap):
    import dataclasses

    structure = dataclasses.replace(laws.STRUCTURES[key], max_factor_dim=cap)
    for shape in [(4, 6), (6, 4), (2, 2), (7, 7)]:
        block = laws.block_of(structure, shape)
        squares = [
            factor
            for name, factor in block.structure.factor_shapes(shape).items()
            if len(factor) == 2 and name != "d"
        ]
        assert all(rows == columns <= cap for rows, columns in squares)
        assert len(squares) == sum(axis <= cap for axis in shape)


def test_fallbacks_are_named_in_the_description():
    capped = laws.block_of(Kronecker(max_factor_dim=3), (4, 2))
    assert capped.structure.describe((4, 2)) == "kronecker (diagonal A: above cap)"
    assert isinstance(laws.block_of(Kronecker(), (4,)).structure, Diagonal)
    assert isinstance(laws.block_of(Dense(max_factor_dim=3), (2, 2)).structure, Diagonal)
    assert isinstance(laws.block_of(Dense(max_factor_dim=4), (2, 2)).structure, Dense)
    assert isinstance(laws.block_of(LowRank(), ()).structure, Diagonal)
    assert isinstance(laws.block_of(LowRank(), (0, 5)).structure, Diagonal)
    no_basis = laws.block_of(laws.STRUCTURES["ekfac_capped"], (4, 2))
    assert no_basis.structure.describe((4, 2)) == "ekfac (no Q_A: above cap)"


def test_rank_is_capped_and_projection_is_reproducible():
    block = laws.block_of(LowRank(rank=9), (2, 2))
    assert block.structure.describe(block.block_shape) == "low-rank (r = 4)"
    first = block.structure.init(laws.NUMPY, (2, 2), np.zeros(()))
    again = block.structure.init(laws.NUMPY, (2, 2), np.zeros(()))
    other = LowRank(rank=9, seed=1).init(laws.NUMPY, (2, 2), np.zeros(()))
    np.testing.assert_array_equal(first["W"], again["W"])
    assert np.abs(first["W"] - other["W"]).max() > 0.1


@pytest.mark.parametrize("key", ["scalar", "diagonal", "span"])
def test_floor_clips_from_below(key):
    import dataclasses

    structure = dataclasses.replace(laws.STRUCTURES[key], floor=0.25)
    assert structure.bounded and not laws.STRUCTURES[key].bounded
    (name,) = structure.factor_shapes((3,))
    values = {name: np.array([-1.0, 0.25, 2.0])}
    np.testing.assert_array_equal(structure.project(laws.NUMPY, values)[name], [0.25, 0.25, 2.0])
    free = laws.STRUCTURES[key].project(laws.NUMPY, values)
    np.testing.assert_array_equal(free[name], values[name])
