"""Every baseline trains, in every framework it exists in, by AlgoPerf's API."""

import importlib
import json
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import submissions
from workloads_extra import registry, rng

pytest.importorskip("sklearn")
NEEDS = {
    "jax": ["jax", "optax"],
    "pytorch": ["torch"],
    "lion_pytorch": ["pytorch_optimizer"],
    "sophia_pytorch": ["pytorch_optimizer"],
    "soap_pytorch": ["pytorch_optimizer"],
    "prodigy_pytorch": ["prodigyopt"],
    "schedule_free_adamw_pytorch": ["schedulefree"],
}
HYPERPARAMETERS = {"one_minus_beta1": 0.1, "beta2": 0.99, "warmup_factor": 0.002}
LEARNING_RATES = {
    "nesterov": 0.1,
    "lion": 3e-3,
    "sophia": 3e-3,
    "prodigy": 1.0,
    "muon": 2e-2,
    "lodo": 1.0,
    "mfac": 3e-3,
    "lanton": 2e-2,
    "gns": 1.0,
}
CONTRIBUTED = ("muon", "prodigy", "schedule_free_adamw", "sophia")
"""In JAX, those that came with later releases of optax."""
FOLDERS = sorted(
    path.parent for path in (submissions.ROOT / "submissions/baselines").glob("*/submission.py")
)
STEPS = {"prodigy": 100}
"""Prodigy has to find its scale first; the others take 25."""


def load(folder):
    """Import a submission, or skip where its library is not installed."""
    for package in [*NEEDS[folder.name.rpartition("_")[2]], *NEEDS.get(folder.name, [])]:
        pytest.importorskip(package)
    if folder.name == "muon_pytorch":
        pytest.importorskip("torch.optim._muon", reason="torch.optim.Muon came with torch 2.9")
    if folder.name.removesuffix("_jax") in CONTRIBUTED:
        contrib = pytest.importorskip("optax.contrib")
        found = getattr(contrib, folder.name.removesuffix("_jax"), None)
        if found is None:
            pytest.skip("this optax does not have it yet")
        if found is contrib.prodigy and "safeguard_warmup" not in signature(found).parameters:
            pytest.skip("the Prodigy of this optax has no safeguard for a warm-up yet")
    return importlib.import_module(f"submissions.baselines.{folder.name}.submission")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_baseline_trains(folder):
    submission = load(folder)
    base, framework = folder.name.rpartition("_")[::2]
    workload = registry.make_workload("digits", framework)
    # Two layers compile in less than half the time of five.
    workload.widths = (64, 32, 10)
    point = SimpleNamespace(
        **HYPERPARAMETERS, learning_rate=LEARNING_RATES.get(base, 1e-2), weight_decay=1e-4
    )
    keys = rng.split(rng.make_rng(framework, 0), 4)
    queue = workload._build_input_queue(keys[0], "train", "", submission.get_batch_size("digits"))
    params, state = workload.init_model_fn(keys[1])
    optimizer = submission.init_optimizer_state(workload, params, state, point, keys[2])
    common = (workload.model_params_types,)

    def evaluate():
        nonlocal optimizer, params, state
        optimizer, params, state = submission.prepare_for_eval(
            workload, params, *common, state, point, workload.loss_type, optimizer, [], 0, keys[3]
        )
        return workload.eval_model(512, params, state, keys[3], "", None, 0)["validation/loss"]

    before = evaluate()
    for step in range(STEPS.get(base, 25)):
        batch = submission.data_selection(
            workload, queue, optimizer, params, state, point, step, keys[3]
        )
        optimizer, params, state = submission.update_params(
            workload,
            params,
            *common,
            state,
            point,
            batch,
            workload.loss_type,
            optimizer,
            [],
            step,
            rng.fold_in(keys[3], step),
        )
    if framework == "jax":
        assert optimizer[1]._cache_size() == 1  # compiled once, for the first step too
    after = evaluate()
    assert np.isfinite(after)
    # Chance is log 10 = 2.3.
    assert after < min(0.8 * before, 1.8)


def test_every_space_is_as_wide_as_every_other():
    folder = submissions.ROOT / "tuning_search_spaces"
    spaces = {
        path.stem: json.loads(path.read_text()) for path in (folder / "ranges").glob("*.json")
    }
    assert {path.name.rpartition("_")[0] for path in FOLDERS} <= spaces.keys()
    for name, space in spaces.items():
        rate = space["learning_rate"]
        assert rate["max"] / rate["min"] == pytest.approx(100.0), name
        decay = space.get("weight_decay")
        assert decay is None or decay["max"] / decay["min"] == pytest.approx(1e4), name
        points = json.loads((folder / f"{name}.json").read_text())
        assert len(points) == 5
        # Listed points may state more, such as dropout and label smoothing.
        assert all(point.keys() >= space.keys() for point in points), name


@pytest.mark.parametrize("present", [False, True])
@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_present_statistics_for_who_asks_for_them(framework, present):
    pytest.importorskip("torch" if framework == "pytorch" else "optax")
    wiring = importlib.import_module(f"submissions.baselines.wiring.{framework}")
    make = importlib.import_module(f"submissions.baselines.adamw_{framework}.submission").make
    kind = wiring.PytorchBaseline if framework == "pytorch" else wiring.JaxBaseline
    submission = kind(make, present_statistics=present)
    workload = registry.make_workload("digits_conv", framework)
    point = SimpleNamespace(**HYPERPARAMETERS, learning_rate=1e-2, weight_decay=1e-4)
    keys = rng.split(rng.make_rng(framework, 0), 4)
    queue = workload._build_input_queue(keys[0], "train", "", 128)
    params, state = workload.init_model_fn(keys[1])
    optimizer = submission.init_optimizer_state(workload, params, state, point, keys[2])
    common = (workload.model_params_types,)

    def means():
        if framework == "pytorch":
            return params.norm_0.running_mean.numpy().copy()
        return np.asarray(state["batch_stats"]["norm_0"]["mean"])

    for step in range(3):
        optimizer, params, state = submission.update_params(
            *(workload, params, *common, state, point, next(queue), workload.loss_type),
            *(optimizer, [], step, rng.fold_in(keys[3], step)),
        )
    before = means()
    optimizer, params, state = submission.prepare_for_eval(
        workload, params, *common, state, point, workload.loss_type, optimizer, [], 3, keys[3]
    )
    if not present:
        np.testing.assert_array_equal(means(), before)
    else:
        # From zero, three steps with a momentum of 0.1 go a quarter of the way.
        assert 2.0 < np.linalg.norm(means()) / np.linalg.norm(before) < 5.0


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_baseline_is_wiring_only(folder):
    text = (folder / "submission.py").read_text()
    assert text.count("\ndef ") == 1
    assert len(text.splitlines()) < 50
