"""Queues and splits: every example once per epoch, the same for the same seed, disjoint splits."""

import itertools

import numpy as np
import pytest

from workloads_extra.data import Split, TrainingQueue, evaluation_batches, fixed_splits


def numbered(count):
    return Split(np.arange(count)[:, None], np.arange(count))


def drawn(queue, batches):
    return np.concatenate([batch["targets"] for batch in itertools.islice(queue, batches)])


@pytest.mark.parametrize("batch_size", [1, 4, 10, 25])
def test_every_epoch_is_a_new_permutation(batch_size):
    stream = drawn(TrainingQueue(numbered(10), batch_size, 3), 60)
    epochs = stream[: len(stream) // 10 * 10].reshape(-1, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (len(epochs), 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_seed_and_position_determine_the_batches():
    stream = drawn(TrainingQueue(numbered(10), 4, 3), 12)
    np.testing.assert_array_equal(stream, drawn(TrainingQueue(numbered(10), 4, 3), 12))
    assert not np.array_equal(stream, drawn(TrainingQueue(numbered(10), 4, 4), 12))
    later = TrainingQueue(numbered(10), 4, 3)
    later.skip(7)
    np.testing.assert_array_equal(stream[28:], drawn(later, 5))


def test_inputs_and_targets_stay_together():
    batch = next(TrainingQueue(numbered(10), 6, 0))
    np.testing.assert_array_equal(batch["inputs"][:, 0], batch["targets"])


def test_empty_batches_are_refused():
    with pytest.raises(ValueError, match=r"global_batch_size must be at least 1, got 0"):
        TrainingQueue(numbered(10), 0, 0)


def test_evaluation_covers_a_split_once_and_pads_with_weight_zero():
    batches = evaluation_batches(numbered(10), 4)
    assert [len(batch["targets"]) for batch in batches] == [4, 4, 4]
    targets, weights = (
        np.concatenate([batch[name] for batch in batches]) for name in ("targets", "weights")
    )
    np.testing.assert_array_equal(targets[weights == 1], np.arange(10))
    assert weights.sum() == 10


def test_weights_of_a_split_are_in_its_batches():
    split = Split(*(np.arange(10).reshape(5, 2) for _ in range(3)))
    trained = next(TrainingQueue(split, 3, 0))
    np.testing.assert_array_equal(trained["weights"], trained["inputs"])
    batches = evaluation_batches(split, 4)
    together = np.concatenate([batch["weights"] for batch in batches])
    np.testing.assert_array_equal(together, [*split.weights, *np.zeros((3, 2))])
    assert "weights" not in next(TrainingQueue(numbered(10), 3, 0))


def test_splits_are_disjoint_and_fixed():
    sizes = {"train": 6, "validation": 3, "test": 1}
    splits = fixed_splits(numbered(10), sizes, 0)
    assert {name: len(split) for name, split in splits.items()} == sizes
    together = np.concatenate([split.targets for split in splits.values()])
    np.testing.assert_array_equal(np.sort(together), np.arange(10))
    again = fixed_splits(numbered(10), sizes, 0)
    np.testing.assert_array_equal(splits["train"].targets, again["train"].targets)
