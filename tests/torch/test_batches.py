"""Cutting nested batches."""

from typing import NamedTuple

import numpy as np
import pytest
import torch

from llqr.torch.batches import batch_size, chunks, first_examples


class Example(NamedTuple):
    x: torch.Tensor
    scale: float


def nested(size):
    return {
        "pair": (torch.arange(size), [np.arange(size)]),
        "example": Example(torch.arange(2 * size).reshape(size, 2), 0.5),
        "none": None,
        "scalar": torch.tensor(7.0),
    }


@pytest.mark.parametrize(("size", "chunk"), [(7, 3), (6, 3), (1, 1), (2, 5)])
def test_chunks_cover_the_batch_in_order(size, chunk):
    pieces = list(chunks(nested(size), chunk))
    assert [len(piece["pair"][0]) for piece in pieces] == [
        min(chunk, size - start) for start in range(0, size, chunk)
    ]
    assert torch.cat([piece["pair"][0] for piece in pieces]).tolist() == list(range(size))
    assert np.concatenate([piece["pair"][1][0] for piece in pieces]).tolist() == list(range(size))
    for piece in pieces:
        assert type(piece["example"]) is Example
        assert piece["example"].x[:, 0].tolist() == [2 * i for i in piece["pair"][0].tolist()]
        assert piece["example"].scale == 0.5
        assert piece["none"] is None
        assert float(piece["scalar"]) == 7.0


def test_first_examples_takes_at_most_what_there_is():
    assert first_examples(nested(5), 2)["pair"][0].tolist() == [0, 1]
    assert batch_size(first_examples(nested(5), 9)) == 5


def test_without_chunks_the_batch_is_passed_as_it_is():
    batch = object()
    assert list(chunks(batch, None)) == [batch]
    assert batch_size(batch) is None


def test_errors_name_the_rule():
    with pytest.raises(ValueError, match="at least one example, got size 0"):
        list(chunks((torch.zeros(0, 3), torch.zeros(0)), 2))
    with pytest.raises(ValueError, match=r"same leading axis .*\[2, 3\]"):
        batch_size([torch.zeros(2), torch.zeros(3)])
    with pytest.raises(ValueError, match="chunk_size=2 needs a batch of arrays"):
        list(chunks("text", 2))
