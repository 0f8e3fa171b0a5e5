"""A run that is saved and taken up again equals one that was never interrupted, bit for bit."""

from __future__ import annotations

import pickle

import jax
import numpy as np
import optax
import pytest
from flax import serialization

import llqr.jax
from llqr.config import configure
from tests.jax import networks
from tests.jax.networks import quick_jit

CASE = networks.mlp
CONFIG = configure(
    structure="kronecker",
    update_interval=2,
    ema_decay=0.5,
    damping="gradient_norm",
    solver_options={"steps": 3, "learning_rate": 0.05},
)


def make():
    case = CASE()
    return llqr.jax.llqr(
        optax.adam(0.05), outputs_fn=case.outputs_fn, loss_fn=case.loss_fn, config=CONFIG
    )


def through_pickle(tree, target, folder):
    (folder / "state").write_bytes(pickle.dumps(jax.device_get(tree)))
    return pickle.loads((folder / "state").read_bytes())


def through_flax(tree, target, folder):
    (folder / "state").write_bytes(serialization.to_bytes(tree))
    return serialization.from_bytes(target, (folder / "state").read_bytes())


def through_orbax(tree, target, folder):
    checkpoint = pytest.importorskip("orbax.checkpoint", reason="needs orbax-checkpoint")
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(folder / "state", tree)
        saver.wait_until_finished()
        return saver.restore(folder / "state", target)


@pytest.fixture(scope="module")
def step():
    case, optimizer = CASE(), make()

    def step(params, state):
        gradient = jax.grad(lambda p: networks.mean_loss(case, p))(params)
        updates, state = optimizer.update(gradient, state, params, batch=case.batch)
        return optax.apply_updates(params, updates), state

    return quick_jit(step)


@pytest.mark.parametrize("through", [through_pickle, through_flax, through_orbax])
def test_a_resumed_run_equals_an_uninterrupted_one(through, step, tmp_path):
    case = CASE()
    fresh = (case.params, make().init(case.params))
    halfway = fresh
    for _ in range(3):
        halfway = step(*halfway)
    resumed = through(halfway, jax.tree.map(np.zeros_like, fresh), tmp_path)
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(halfway), strict=True):
        assert np.asarray(a).dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    llqr.jax.check_state(resumed, case.params, CONFIG)
    for _ in range(3):
        resumed, halfway = step(*resumed), step(*halfway)
    assert int(halfway[1].preconditioner.fits) >= 2
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(halfway), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_restored_as_dictionaries_names_the_remedy():
    state = serialization.to_state_dict(make().init(CASE().params))
    with pytest.raises(ValueError, match="restore checkpoints with that as the target"):
        llqr.jax.check_state(state, CASE().params, CONFIG)
