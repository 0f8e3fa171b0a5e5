"""One run's clock, stop and batches, on a trainer whose measure and pace are known."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from scripts.demo_job import data
from scripts.demo_job.loop import train
from scripts.demo_job.methods import GrowingInterval
from scripts.demo_job.tasks import TASKS, batches, initial_arrays

TASK = replace(TASKS["classifier"], evaluate_every=5, max_steps=100, target=0.6)


class Decay:
    """Measure 1 − step/100; every step takes 1 s, an evaluation 100 s, the warm-up 1000 s."""

    def __init__(self, broken_at: int = 10**9) -> None:
        self.now, self.steps, self.broken_at, self.warm = 0.0, 0, broken_at, False

    def warm_up(self) -> None:
        self.now += 1000.0
        self.warm = True

    def step(self, indices: np.ndarray) -> None:
        assert self.warm
        self.now += 1.0
        self.steps += 1

    def wait(self) -> None:
        self.now += 0.5

    def evaluate(self) -> dict[str, float]:
        self.now += 100.0
        return {"measure": math.nan if self.steps >= self.broken_at else 1.0 - self.steps / 100}


def run(task, trainer):
    return train(task, trainer, itertools.repeat(np.arange(2)), clock=lambda: trainer.now)


def test_the_clock_holds_steps_and_waiting_only():
    result = run(TASK, Decay())
    assert result.steps_to_target == 40
    assert result.seconds_to_target == 40 * 1.0 + 8 * 0.5


def test_a_run_goes_a_quarter_beyond_its_target():
    assert [point["step"] for point in run(TASK, Decay()).curve] == list(range(0, 55, 5))


def test_a_missed_target_uses_all_steps():
    result = run(replace(TASK, target=-1.0), Decay())
    assert result.steps_to_target is None and result.seconds_to_target is None
    assert result.curve[-1]["step"] == 100
    assert result.best == pytest.approx(0.0)


def test_a_measure_that_is_not_finite_ends_the_run():
    result = run(TASK, Decay(broken_at=20))
    assert result.diverged
    assert result.curve[-1]["step"] == 20
    assert result.steps_to_target is None
    assert result.best == pytest.approx(0.85)


def test_batches_repeat_with_the_seed_and_cover_an_epoch_without_repetition():
    def take(seed):
        return list(itertools.islice(batches(TASK, 1437, seed), 22))

    np.testing.assert_array_equal(take(3), take(3))
    assert not np.array_equal(take(3), take(4))
    epoch = np.concatenate(take(3)[:11])
    assert len(epoch) == 1437 // 128 * 128 == len(set(epoch))


def test_initial_weights_repeat_with_the_seed():
    for task in TASKS.values():
        for first, second in zip(initial_arrays(task, 1), initial_arrays(task, 1), strict=True):
            np.testing.assert_array_equal(first, second)
        assert not np.array_equal(initial_arrays(task, 1)[0], initial_arrays(task, 2)[0])


def test_the_split_is_fixed_and_disjoint():
    examples = data.load(TASKS["classifier"])
    assert examples.inputs.shape == (1437, 64) and examples.validation_inputs.shape == (360, 64)
    rows = {row.tobytes() for row in examples.inputs}
    assert not rows & {row.tobytes() for row in examples.validation_inputs}
    assert examples.inputs.min() == 0.0 and examples.inputs.max() == 1.0


def test_entropy_is_the_loss_of_a_perfect_reconstruction():
    images = np.array([[0.5, 0.0, 1.0], [0.25, 0.5, 0.5]])
    quarter = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert data.entropy(images) == pytest.approx((3 * np.log(2) + quarter) / 2, rel=1e-12)


def test_the_interval_between_fits_grows_to_its_limit():
    interval = GrowingInterval(longest=20, growth=5)
    assert [interval(step) for step in (0, 4, 5, 50, 95, 1000)] == [1, 1, 2, 11, 20, 20]
