"""Submission functions on tiny workloads: both rulesets, both frameworks, every kind of loss."""

import importlib.util
import json
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from llqr.algoperf import planning
from llqr.algoperf.decay import RISE
from llqr.algoperf.recipes import Recipe
from llqr.algoperf.rulesets import external_tuning
from llqr.algoperf.torch_training import TorchTrainer
from llqr.jax.state import find_states
from tests.submissions import tiny

ROOT = Path(__file__).parents[2]
SPACE = json.loads((ROOT / "tuning_search_spaces/llqr.json").read_text())
SUBMISSIONS = [
    (ruleset, framework)
    for ruleset in ("self_tuning", "external_tuning")
    for framework in ("jax", "pytorch")
]


def load(ruleset, framework):
    path = ROOT / "submissions" / ruleset / f"llqr_{framework}" / "submission.py"
    spec = importlib.util.spec_from_file_location(f"submission_{ruleset}_{framework}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(ruleset, framework, kind, steps, *, point=2, examples=16, statistics=True, **changes):
    """Return losses, final parameters as NumPy in JAX's layout, and the optimizer state."""
    submission = load(ruleset, framework)
    workload = (tiny.JaxTiny if framework == "jax" else tiny.TorchTiny)(kind, statistics=statistics)
    hyperparameters = types.SimpleNamespace(**(SPACE[point] | {"dropout_rate": 0.0} | changes))
    torch.manual_seed(0)
    params, model_state = workload.init_model_fn()
    losses: list[float] = []
    workload.metrics_logger = types.SimpleNamespace(
        append_scalar_metrics=lambda metrics, step: losses.append(metrics["loss"])
    )
    state = submission.init_optimizer_state(
        workload, params, model_state, hyperparameters, jax.random.PRNGKey(0)
    )
    for step in range(steps):
        batch = tiny.make_batch(kind, examples, seed=step % 3)
        state, params, model_state = submission.update_params(
            workload=workload,
            current_param_container=params,
            current_params_types=workload.model_params_types,
            model_state=model_state,
            hyperparameters=hyperparameters,
            batch=batch if framework == "jax" else tiny.to_torch(batch),
            loss_type=workload.loss_type,
            optimizer_state=state,
            train_state={},
            eval_results=[],
            # Losses are logged at multiples of 100.
            global_step=0,
            rng=jax.random.fold_in(jax.random.PRNGKey(1), step),
        )
    return losses, as_numpy(params), state


def as_numpy(params):
    if not isinstance(params, torch.nn.Module):
        return jax.tree.map(np.asarray, params)
    module = getattr(params, "module", params)
    return {
        name: {
            "kernel": getattr(module, name).weight.detach().numpy().T,
            "bias": getattr(module, name).bias.detach().numpy(),
        }
        for name in ("dense_0", "dense_1")
    }


def counters(state):
    if isinstance(state, dict):
        return state["llqr"].optimizer.counters()
    (own,) = find_states(state[0])
    inner = own.preconditioner
    names = ("step", "fits", "rejected", "fallbacks")
    return {name: int(getattr(inner, name)) for name in names} | {"skipped": int(own.skipped)}


@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_without_hyperparameters_the_loss_falls(framework):
    losses, _, state = train("self_tuning", framework, "tokens", 31)
    counts = counters(state)
    # The interval grows from 1.
    assert 3 <= counts.pop("fits") <= 20
    assert counts == {"step": 31, "rejected": 0, "fallbacks": 0, "skipped": 0}
    assert losses[30] < 0.8 * losses[0]  # the same batch


@pytest.mark.parametrize("kind", ["tokens", "squared"])
def test_the_jax_step_is_compiled_once(kind):
    """Also for the first step, whose parameters come from the workload."""
    _, _, (_, trainer) = train("self_tuning", "jax", kind, 3)
    assert trainer._compiled._cache_size() == 1


def test_every_point_of_the_search_space_is_a_recipe():
    for point in SPACE:
        recipe = external_tuning(tiny.JaxTiny(), types.SimpleNamespace(**point))
        interval = recipe.config(["layer/kernel"]).update_interval
        assert (interval == point["update_interval"]) == (point["structure"] != "span")
        # The span's length falls by annealing, that of the others by the schedule.
        last = 1.0 if point["structure"] == "span" else 0.0
        assert float(recipe.schedule(tiny.JaxTiny.step_hint, np)) == last
        assert (recipe.annealing is None) == (point["structure"] != "span")


# One point of each structure: kronecker, ekfac, span.
@pytest.mark.parametrize("point", range(3))
@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_every_structure_of_the_search_space_trains(framework, point):
    changes = {"update_interval": 4, "warmup_factor": 0.0}
    losses, _, state = train("external_tuning", framework, "softmax", 10, point=point, **changes)
    fits = counters(state)["fits"]
    # The span adapts its interval; the others refresh at steps 0, 4 and 8.
    assert 3 <= fits <= 10 if SPACE[point]["structure"] == "span" else fits == 3
    assert counters(state)["rejected"] == 0 and losses[9] < losses[0]


# Single softmaxes and labels differ from tokens and graphs in their weights alone: see test_curvature.
@pytest.mark.parametrize(
    ("kind", "statistics"),
    [
        *((kind, True) for kind in ("tokens", "sigmoid", "squared", "absolute", "ctc", "graph")),
        *((kind, False) for kind in ("tokens", "ctc", "graph")),
    ],
)
def test_both_frameworks_take_the_same_steps(kind, statistics):
    # Same weights, same batches, no dropout: differences are rounding, in float32.
    changes = {"warmup_factor": 0.0, "statistics": statistics}
    losses, in_jax, state = train("external_tuning", "jax", kind, 4, **changes)
    same_losses, in_torch, same_state = train("external_tuning", "pytorch", kind, 4, **changes)
    counts = counters(state)
    assert counters(same_state) == counts and 1 <= counts.pop("fits") <= 4
    assert counts == {"step": 4, "rejected": 0, "fallbacks": 0, "skipped": 0}
    np.testing.assert_allclose(losses, same_losses, rtol=1e-3)
    assert losses[3] < losses[0]  # the same batch
    for layer in in_jax:
        for name in in_jax[layer]:
            np.testing.assert_allclose(
                in_jax[layer][name], in_torch[layer][name], rtol=2e-3, atol=2e-4
            )


@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_chunks_and_products_alone_change_rounding_only(framework, monkeypatch):
    # Statistics would be those of each chunk.
    point = {"kind": "tokens", "steps": 3, "warmup_factor": 0.0, "statistics": False}
    monkeypatch.setattr(planning, "MIN_EVENTS", 10_000)  # all examples, however they are cut
    _, expected, _ = train("external_tuning", framework, **point)
    # Nothing may be stored and no batch is small: chunks of a quarter, a backward product per direction.
    monkeypatch.setattr(planning, "GRAM_BYTES", 0)
    monkeypatch.setattr(planning, "SMALL_BATCH_BYTES", 0)
    _, own, state = train("external_tuning", framework, **point)
    assert 1 <= counters(state)["fits"] <= 3
    for layer in own:
        for name in own[layer]:
            np.testing.assert_allclose(
                own[layer][name], expected[layer][name], rtol=2e-3, atol=2e-4
            )


@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_a_tensor_that_is_too_large_gets_the_plain_base_step(framework, monkeypatch):
    module, name = (
        ("jax_training", "dense_0/kernel")
        if framework == "jax"
        else ("torch_training", "dense_0.weight")
    )
    monkeypatch.setattr(f"llqr.algoperf.{module}.too_large", lambda shapes: frozenset({name}))
    losses, params, state = train("self_tuning", framework, "squared", 2)
    assert counters(state)["fits"] >= 1 and losses[0] > 0
    start = tiny.initial_parameters()["dense_0"]["kernel"]
    decayed = (1.0 - RISE / tiny.JaxTiny.step_hint**2) * start
    # Two steps of Adam of length 1e-3 with about equal signs, no entry further than that.
    moved = np.abs(params["dense_0"]["kernel"] - decayed)
    assert 1e-3 < moved.max() <= 2.1e-3


def test_a_missing_field_of_the_search_space_is_named():
    point = {name: value for name, value in SPACE[0].items() if name != "warmup_factor"}
    with pytest.raises(AttributeError, match="warmup_factor") as caught:
        load("external_tuning", "jax").init_optimizer_state(
            tiny.JaxTiny(), {}, None, types.SimpleNamespace(**point), None
        )
    assert "must have the fields learning_rate, " in caught.value.__notes__[0]


def test_an_unknown_workload_is_named():
    with pytest.raises(ValueError, match="unknown workload 'chess'"):
        load("self_tuning", "jax").get_batch_size("chess")


def test_torch_trainer_state_round_trips_exactly():
    _, expected, _ = train("external_tuning", "pytorch", "softmax", 6)
    submission = load("external_tuning", "pytorch")
    workload = tiny.TorchTiny("softmax")
    model, _ = workload.init_model_fn()
    point = types.SimpleNamespace(**(SPACE[2] | {"dropout_rate": 0.0}))
    trainer = submission.init_optimizer_state(workload, model, None, point, None)["llqr"]

    def steps(own, network, numbers):
        for step in numbers:
            own.step(
                network, None, tiny.to_torch(tiny.make_batch("softmax", 16, seed=step % 3)), None
            )

    steps(trainer, model, range(4))
    saved, weights = trainer.state_dict(), model.state_dict()
    other, _ = workload.init_model_fn()
    resumed = TorchTrainer(workload, trainer.recipe, other)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    steps(resumed, other, range(4, 6))
    for layer, values in as_numpy(other).items():
        for name, value in values.items():
            np.testing.assert_array_equal(value, expected[layer][name])


def test_the_configuration_follows_the_size_of_the_batch():
    workload = tiny.TorchTiny("softmax")
    model, state = workload.init_model_fn()
    trainer, shares = TorchTrainer(workload, Recipe(update_interval=1), model), []
    for size in (512, 512, 16, 512):
        batch = tiny.to_torch(tiny.make_batch("softmax", size))
        state, _ = trainer.step(model, state, batch, None)
        shares.append(trainer.optimizer.config.held_out)
    # All of a small batch are curvature examples, and a quarter of this large one.
    assert shares == [0.25, 0.25, 1.0, 0.25]


def test_jax_states_restored_with_a_device_axis_continue():
    submission = load("self_tuning", "jax")
    workload = tiny.JaxTiny("softmax")
    params, model_state = workload.init_model_fn()
    state, trainer = submission.init_optimizer_state(workload, params, model_state, None, None)
    key = jax.random.PRNGKey(0)
    batch = tiny.make_batch("softmax", 16)
    state, params, model_state, _ = trainer.step(state, params, batch, key)
    stacked = jax.tree.map(lambda leaf: leaf[None], (state, params))
    plain = trainer.step(*jax.tree.map(lambda leaf: leaf.copy(), (state, params)), batch, key)
    restored = trainer.step(*stacked, batch, key)
    # Given away were the state and the parameters, not what evaluations look at.
    assert np.isfinite(model_state["mean"]).all()
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(one, other)
