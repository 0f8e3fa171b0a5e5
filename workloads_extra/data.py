"""Splits held in memory and the queues of batches made from them, in NumPy.

A training queue is a function of its seed and position alone: batch t holds the examples t·B to (t+1)·B of
one endless stream, the permutations of epoch 0, 1, 2, … one after the other. So a resumed run skips to its
position instead of drawing again.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from workloads_extra.rng import seed_of

Batch = dict[str, np.ndarray]


class Split(NamedTuple):
    """Examples of one split.

    Attributes:
        inputs: [examples, ...].
        targets: [examples, ...].
        weights: of the targets in the loss, float32, in their shape; None where all are one.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None = None

    def take(self, indices: Any) -> "Split":
        """Return the examples that a slice or an array of indices selects."""
        return self._each(lambda array: array[indices])

    def pad(self, missing: int) -> "Split":
        """Return the split with examples of zeros at its end."""
        return self._each(lambda array: np.concatenate([array, _zeros(array, missing)]))

    def _each(self, function: Callable[[np.ndarray], np.ndarray]) -> "Split":
        """Apply a function to every array."""
        return Split(*(None if array is None else function(array) for array in self))

    def __len__(self) -> int:
        return len(self.inputs)


class TrainingQueue:
    """Endless shuffled batches, a fresh permutation every epoch.

    Args:
        split: training examples.
        batch_size: examples per batch, ≥ 1; may exceed the size of the split.
        rng: random state of either framework.

    Raises:
        ValueError: for a batch size below 1.
    """

    def __init__(self, split: Split, batch_size: int, rng: Any):
        if batch_size < 1:
            raise ValueError(f"global_batch_size must be at least 1, got {batch_size}")
        self._split = split
        self._batch_size = batch_size
        self._seed = seed_of(rng)
        self._position = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = self._position * self._batch_size
        stream = np.arange(start, start + self._batch_size)
        epochs, places = np.divmod(stream, len(self._split))
        indices = np.concatenate(
            [self._permutation(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )
        self._position += 1
        return as_batch(self._split.take(indices))

    def skip(self, batches: int) -> None:
        """Advance by a number of batches without making them."""
        self._position += batches

    def _permutation(self, epoch: int) -> np.ndarray:
        """Order of the examples in an epoch."""
        return np.random.default_rng([*self._seed, int(epoch)]).permutation(len(self._split))


def as_batch(split: Split) -> Batch:
    """Return the dictionary that AlgoPerf calls a batch, with ``weights`` where the split has some."""
    return {name: array for name, array in split._asdict().items() if array is not None}


def evaluation_batches(split: Split, batch_size: int) -> list[Batch]:
    """Cut a split into batches of one size, the last padded with examples of weight zero.

    Args:
        split: examples to go through once.
        batch_size: examples per batch, ≥ 1.

    Returns:
        Batches with ``inputs``, ``targets`` and ``weights``, float32: those of the split, else
        [batch_size] in {0, 1}.
    """
    batches = []
    for start in range(0, len(split), batch_size):
        part = split.take(slice(start, start + batch_size))
        if part.weights is None:
            part = Split(part.inputs, part.targets, np.ones(len(part), np.float32))
        batches.append(as_batch(part.pad(batch_size - len(part))))
    return batches


def fixed_splits(examples: Split, sizes: dict[str, int], seed: int) -> dict[str, Split]:
    """Deal examples to splits, the same way every time.

    Args:
        examples: everything there is.
        sizes: number of examples per split; together at most what there is.
        seed: of the one permutation.

    Returns:
        A `Split` under every name of `sizes`.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    bounds = np.cumsum([0, *sizes.values()])
    return {
        name: examples.take(order[start:stop])
        for name, start, stop in zip(sizes, bounds[:-1], bounds[1:], strict=True)
    }


def _zeros(array: np.ndarray, count: int) -> np.ndarray:
    """Padding of the same kind as the array."""
    return np.zeros((count, *array.shape[1:]), dtype=array.dtype)
