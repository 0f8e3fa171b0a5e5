"""Weight decay of the submissions: its two parts, its memory and its bounds."""

import numpy as np
import pytest

from llqr.algoperf.batches import epoch_length
from llqr.algoperf.decay import LEAST, MEMORY, MOST, RISE, AnnealedDecay, ConstantDecay
from llqr.annealing import Annealing

TOTAL = 1000


def annealed(**settings):
    return AnnealedDecay(annealing=Annealing(total_steps=TOTAL), **settings)


class _Workload:
    num_train_examples = 1197


def test_little_decay_while_step_sizes_are_solved_for():
    for step in (0, 7, 199):
        assert annealed()(step, np, 9.0) == pytest.approx(RISE * step / TOTAL**2, rel=1e-14)


@pytest.mark.parametrize(
    ("epoch", "longest"),
    [
        (1.0, 0.025),
        (2.5, 0.01),
        (4.0, 1.0 / 160.0),
        (0.1, MOST / TOTAL),
        (9.0, LEAST / TOTAL),
        (1e6, LEAST / TOTAL),
    ],
)
def test_then_a_memory_in_epochs_within_bounds(epoch, longest):
    share = Annealing(total_steps=TOTAL).share
    for step in (200, 230, 600, 999, 5000):
        found = annealed()(step, np, epoch)
        assert found == pytest.approx(longest * share(step, max), rel=1e-14)


def test_weights_without_updates_are_forgotten_within_the_memory():
    """With the longest length all along, a factor e is lost in MEMORY epochs."""
    rule = AnnealedDecay(annealing=Annealing(total_steps=TOTAL, warmup=0.0, least=0.999))
    epoch, weight = 2.5, 1.0
    for _ in range(round(MEMORY * epoch)):
        weight *= 1.0 - float(rule(50 * TOTAL, np, epoch))
    assert weight == pytest.approx(np.exp(-0.999), rel=0.01)


def test_strength_is_a_factor():
    for step in (50, 400):
        assert annealed(strength=0.5)(step, np, 2.0) == 0.5 * annealed()(step, np, 2.0)
        assert annealed(strength=0.0)(step, np, 2.0) == 0.0


def test_a_constant_decay_is_constant():
    assert [float(ConstantDecay(rate=0.3)(step, np, 7.0)) for step in (0, 10, 10**6)] == [0.3] * 3


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_rates_are_validated(value):
    for make in (lambda: ConstantDecay(rate=value), lambda: annealed(strength=value)):
        with pytest.raises(ValueError, match=r"weight_decay must be .* at least 0, got"):
            make()


def test_an_epoch_counts_the_examples_of_all_processes():
    batch = {"inputs": np.zeros((64, 3)), "targets": np.zeros(64)}
    assert epoch_length(_Workload, batch) == 1197 / 64
    assert epoch_length(_Workload, batch, processes=2) == 1197 / 128
    assert epoch_length(_Workload, batch, processes=100) == 1.0


@pytest.fixture
def jax_32_bits():
    """JAX with 32 bits, as AlgoPerf runs it and these tests do not."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize("total", [TOTAL, 520_000])
def test_a_traced_step_gives_the_same_numbers(total, jax_32_bits):
    """Also for runs whose squared length does not fit into 32 bits."""
    numpy = jax_32_bits.numpy
    for rule in (AnnealedDecay(annealing=Annealing(total_steps=total)), ConstantDecay(rate=0.1)):
        traced = jax_32_bits.jit(lambda step, rule=rule: rule(step, numpy, 2.0))
        for step in (0, total // 50, total // 5, total // 2, 2 * total):
            found = traced(numpy.asarray(step))
            np.testing.assert_allclose(found, rule(step, np, 2.0), rtol=1e-6, atol=1e-12)
