"""TorchBackend against NumpyBackend, operation by operation."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from llqr.backend import NumpyBackend
from llqr.torch import TorchBackend

TORCH, NUMPY = TorchBackend(), NumpyBackend()
LIKE = torch.zeros((), dtype=torch.float64)


def both(rng, *shape):
    value = rng.standard_normal(shape)
    return torch.tensor(value), value


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("sqrt", ()), ("sigmoid", ()), ("softmax", ()), ("maximum", (0.6,))],
)
def test_elementwise_operations(rng, name, arguments):
    x, y = both(rng, 3, 4)
    found = getattr(TORCH, name)(x.abs(), *arguments)
    np.testing.assert_allclose(found, getattr(NUMPY, name)(abs(y), *arguments), rtol=1e-14)


def test_contractions_and_joins(rng):
    (a, b), (c, d) = both(rng, 3, 4), both(rng, 4, 2)
    equation = "ij,jk->ki"
    np.testing.assert_allclose(
        TORCH.einsum(equation, a, c), NUMPY.einsum(equation, b, d), rtol=1e-13
    )
    np.testing.assert_array_equal(TORCH.concatenate([a, a[:1]]), NUMPY.concatenate([b, b[:1]]))
    np.testing.assert_array_equal(TORCH.stack([a, 2 * a]), NUMPY.stack([b, 2 * b]))
    np.testing.assert_array_equal(
        TORCH.map(lambda row: row * row.sum(), a), NUMPY.map(lambda row: row * row.sum(), b)
    )


def test_eigenvalues_ascend_and_rebuild_the_matrix(rng):
    a, _ = both(rng, 4, 4)
    values, vectors = TORCH.eigh(a + a.T)
    assert bool((values[1:] >= values[:-1]).all())
    torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, a + a.T)


@pytest.mark.parametrize("failure", ["an error", "vectors that are not finite"])
@pytest.mark.parametrize("resolved", [True, False])
def test_float64_steps_in_where_lapack_fails(rng, monkeypatch, failure, resolved):
    plain = torch.linalg.eigh

    def failing(matrix):
        values, vectors = plain(matrix)
        if resolved and matrix.dtype == torch.float64:
            return values, vectors
        if failure == "an error":
            raise torch.linalg.LinAlgError
        vectors[0, 0] = torch.nan
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    a = both(rng, 4, 4)[0].float()
    values, vectors = TORCH.eigh(a + a.T)
    assert values.dtype == vectors.dtype == torch.float32
    if resolved:
        torch.testing.assert_close(vectors @ torch.diag(values) @ vectors.T, a + a.T)
    else:
        assert bool(values.isnan().all() & vectors.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [2, 2.5, np.ones((2, 3)), np.float32(1.5), torch.ones(3)])
def test_new_arrays_take_dtype_from_like(dtype, value):
    like = torch.zeros((), dtype=dtype)
    made = TORCH.asarray(value, like)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, np.asarray(value))
    assert TORCH.zeros((2, 0), like).dtype == TORCH.ones((2,), like).dtype == dtype
    counter = TORCH.integer(value if np.ndim(value) == 0 else 3, like)
    assert counter.dtype == torch.int32
    assert counter.ndim == 0


def test_asarray_copies_numpy_arrays():
    value = np.zeros(2)
    made = TORCH.asarray(value, LIKE)
    value += 1.0
    assert float(made.sum()) == 0.0


def test_where_keeps_counters_integers_and_numbers_numbers():
    yes = torch.tensor(True)
    counter = torch.tensor(4, dtype=torch.int32)
    assert (counter + TORCH.where(yes, 1, 0)).dtype == torch.int32
    assert int(TORCH.where(~yes, 1, 0)) == 0
    x = torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert TORCH.where(x > 0, x, 0.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_isfinite_finds_a_single_bad_element(bad):
    x = torch.zeros(5, 3)
    assert bool(TORCH.isfinite(x))
    x[2, 1] = bad
    assert not bool(TORCH.isfinite(x))
    assert not bool(TORCH.isfinite(torch.tensor(bad)))
    assert bool(TORCH.isfinite(torch.zeros(0, 3)))
    assert bool(TORCH.isfinite(torch.full((2,), torch.finfo(torch.float32).max)))


def test_control_flow():
    total = TORCH.while_loop(
        lambda s: s[0] < 4, lambda s: (s[0] + 1, 2 * s[1]), (torch.tensor(0), 1)
    )
    assert total[1] == 16
    assert TORCH.cond(torch.tensor(False), lambda s: s + 1, lambda s: s - 1, 5) == 4


class Pair(NamedTuple):
    a: torch.Tensor
    b: dict


@pytest.mark.parametrize("choice", [True, False])
def test_select_of_nested_structures(choice):
    one = Pair(torch.ones(2), {"x": (torch.ones(1), torch.tensor(1))})
    two = Pair(torch.zeros(2), {"x": (torch.full((1,), float("nan")), torch.tensor(0))})
    predicate = torch.tensor(choice)
    from llqr.torch.backend import _select

    for select in (TORCH.select, _select):  # the second is what devices other than the CPU use
        chosen = select(predicate, one, two)
        expected = one if choice else two
        assert type(chosen) is Pair
        assert torch.equal(chosen.a, expected.a)
        assert isinstance(chosen.b["x"], tuple)
        torch.testing.assert_close(chosen.b["x"], expected.b["x"], equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eigenvalues_that_lapack_cannot_find_are_not_numbers(dtype):
    matrix = torch.full((3, 3), float("nan"), dtype=dtype)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.eigh(matrix)
    values, vectors = TorchBackend().eigh(matrix)
    assert values.shape == (3,) and values.dtype == dtype and values.isnan().all()
    assert vectors.shape == (3, 3) and vectors.isnan().all()


def test_mapped_rows_in_batches_and_where_batches_are_impossible():
    rows = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    graph = torch.ones(2, dtype=torch.float64, requires_grad=True)
    pulled = graph.exp() * 2.0

    def derivative(row):
        return torch.autograd.grad(pulled, graph, row, retain_graph=True)[0]

    def decides(row):
        # A batch has no single truth value, so this goes row by row.
        return row.sum() if bool(row[0] > 4.0) else row.prod()

    for function in (derivative, decides):
        expected = torch.stack([function(row) for row in rows])
        for size in (1, 2, 4, 100):
            assert torch.equal(TorchBackend(map_batch_size=size).map(function, rows), expected)
            assert torch.equal(
                TorchBackend(map_batch_size=size).map(function, rows[:1]), expected[:1]
            )


def test_sizes_of_batches_are_validated():
    with pytest.raises(ValueError, match="map_batch_size must be an integer of at least 1, got 0"):
        TorchBackend(map_batch_size=0)
