"""LODO's structure against explicit products of permutation and block-diagonal matrices."""

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.structures import LODO, Diagonal, make_blocks
from llqr.structures.block_product import orthogonal_blocks, permutations

NUMPY = NumpyBackend()


def explicit_product(blocks, seed):
    """Return G̃ as the product of matrices it is defined as."""
    depth, count, size, _ = blocks.shape
    width = count * size
    result = np.eye(width)
    for index in range(depth):
        diagonal = np.zeros((width, width))
        for k in range(count):
            rows = slice(k * size, (k + 1) * size)
            diagonal[rows, rows] = blocks[index, k]
        permutation = np.eye(width)[permutations(seed, depth, width)[0][index]]
        result = diagonal @ permutation @ result
    return result


@pytest.mark.parametrize("n, depth, block_size", [(7, 16, 4), (10, 5, 3), (1, 2, 2)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_equals_the_explicit_product(rng, n, depth, block_size, symmetric):
    structure = LODO(depth=depth, block_size=block_size, symmetric=symmetric, seed=3)
    start = structure.init(NUMPY, (n,), np.zeros(()))["B"]
    width = -(-2 * n // block_size) * block_size
    assert start.shape == (depth, width // block_size, block_size, block_size)
    moved = start + 0.2 * rng.standard_normal(start.shape)
    right = explicit_product(moved, 3)
    left = right if symmetric else explicit_product(start, 3)
    expected = (left.T @ right)[:n, :n]
    np.testing.assert_allclose(
        structure.to_dense(NUMPY, {"B": moved}, (n,)), expected, rtol=1e-12, atol=1e-12
    )
    if symmetric:
        np.testing.assert_array_less(-1e-12, np.linalg.eigvalsh(expected))


def test_full_depth_derivatives_equal_autodiff(rng):
    jax = pytest.importorskip("jax")
    from llqr.jax import JaxBackend

    structure, backend = LODO(), JaxBackend()
    factors = structure.init(NUMPY, (9,), np.zeros(()))
    moved = {"B": factors["B"] + 0.1 * rng.standard_normal(factors["B"].shape)}
    x, cotangent = rng.standard_normal(9), rng.standard_normal(9)
    tangent = {"B": rng.standard_normal(factors["B"].shape)}

    def apply(own):
        return structure.apply(backend, own, jax.numpy.asarray(x))

    own = jax.tree.map(jax.numpy.asarray, moved)
    along = jax.jvp(apply, (own,), (jax.tree.map(jax.numpy.asarray, tangent),))[1]
    (back,) = jax.vjp(apply, own)[1](jax.numpy.asarray(cotangent))
    np.testing.assert_allclose(structure.pushforward(NUMPY, moved, tangent, x), along, rtol=1e-10)
    got = structure.pullback(NUMPY, moved, x, cotangent)["B"]
    np.testing.assert_allclose(got, back["B"], rtol=1e-9, atol=1e-12)


def test_every_output_depends_on_every_input(rng):
    structure = LODO(depth=8)
    start = structure.init(NUMPY, (32,), np.zeros(()))["B"]
    product = explicit_product(start, 0)
    assert (np.abs(product) > 0.0).all()
    np.testing.assert_allclose(product @ product.T, np.eye(64), atol=1e-13)


def test_blocks_and_permutations_follow_the_seed():
    first, again, other = (LODO(seed=s).init(NUMPY, (5,), np.zeros(()))["B"] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    forward, inverse = permutations(0, 4, 12)
    assert (np.take_along_axis(forward, inverse, axis=1) == np.arange(12)).all()
    assert not (forward[0] == forward[1]).all()
    # Both signs of the determinant occur: rotations and reflections.
    assert set(np.sign(np.linalg.det(orthogonal_blocks(0, 4, 12, 4))).ravel()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    "per, names",
    [
        ("network", ["network"]),
        ("layer", ["a", "b"]),
        ("parameter", ["a.bias", "a.weight", "b.weight"]),
    ],
)
def test_groups(per, names):
    shapes = {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (2, 2)}
    blocks = make_blocks(shapes, LODO(per=per))
    assert [block.name for block in blocks] == names
    assert sum(block.block_shape[0] for block in blocks) == 13


def test_memory_is_128_numbers_per_parameter_and_large_blocks_get_a_diagonal():
    assert LODO().factor_count((1000,)) == 128 * 1000
    assert isinstance(LODO(max_size=5).resolve((6,)), Diagonal)
    assert isinstance(LODO().resolve((0,)), Diagonal)
    assert LODO(max_size=6).resolve((6,)) == LODO(max_size=6)
    assert LODO(symmetric=False).describe((6,)) == "lodo (depth 16, 4 × 4 blocks, left side fixed)"
