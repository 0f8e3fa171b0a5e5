"""Checkpoints of the runner: resuming, refusing to overwrite, and damaged or foreign files."""

import io

import numpy as np
import pytest

from tests.workloads.conftest import FRAMEWORKS
from workloads_extra.runner import checkpoints, storage


def test_a_resumed_run_continues_identically(run, framework):
    assert run(framework, experiment_name="whole", max_global_steps=14) == 0
    assert run(framework, max_global_steps=6) == 0
    assert run(framework, max_global_steps=14, resume_last_run=True, rng_seed=99) == 0
    name = "checkpoint_14"
    whole = payload(run.trial(framework, 1, "whole") / name)
    resumed = payload(run.trial(framework, 1) / name)
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        np.testing.assert_array_equal(value, resumed[key], err_msg=key)
    path = run.trial(framework, 1) / name
    assert checkpoints.load_progress(path).preemption_count == 1
    steps = [
        row["global_step"]
        for row in storage._read_rows(run.trial(framework, 1) / "eval_measurements.csv")
    ]
    assert steps == sorted(set(steps), key=int)
    assert (run.trial(framework, 1) / "meta_data_1.json").exists()


@pytest.fixture
def single_precision():
    """The suite has JAX in 64 bits, which the parameters of workloads are not."""
    try:
        import jax
    except ModuleNotFoundError:
        yield
        return
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.parametrize(
    ("path", "space"),
    [
        ("self_tuning/llqr_jax", None),
        ("self_tuning/llqr_pytorch", None),
        ("baselines/schedule_free_adamw_jax", "schedule_free_adamw"),
        # Schedule-Free of PyTorch moves parameters for an evaluation and back, with rounding.
        ("ablations/adamw_present_pytorch", "adamw"),
    ],
)
def test_evaluations_do_not_change_training(run, tmp_path, single_precision, path, space):
    """Also where normalisations are evaluated with other statistics than those training goes on with."""
    pytest.importorskip("sklearn")
    framework = path.rpartition("_")[2]
    pytest.importorskip(FRAMEWORKS[framework])
    flags = {
        "framework": framework,
        "workload": "digits_conv",
        "submission_path": f"submissions/{path}/submission.py",
        "tuning_ruleset": "external" if space else "self",
        "tuning_search_space": f"tuning_search_spaces/{space}.json" if space else None,
        "eval_period_steps": 6,
    }
    assert run(**flags, experiment_name="whole", max_global_steps=8) == 0
    # Evaluated at the end of its first part as well.
    assert run(**flags, max_global_steps=3) == 0
    assert run(**flags, max_global_steps=8, resume_last_run=True) == 0
    whole, resumed = (
        {row["global_step"]: row["validation/loss"] for row in storage._read_rows(path)}
        for study in ("whole", "study_0")
        for path in (tmp_path / study).glob("*/*/eval_measurements.csv")
    )
    assert whole == {step: loss for step, loss in resumed.items() if step != "3"}
    assert {"6", "8"} <= whole.keys() and "3" in resumed


def payload(path):
    """All arrays of a checkpoint by name."""
    header, content = checkpoints._read(path)
    if header["index"] is not None:
        return {"bytes": np.frombuffer(content, np.uint8)}
    import torch

    state = torch.load(io.BytesIO(content), weights_only=True)
    optimizer = state["optimizer_state"]["optimizer"]["state"]
    moments = {
        f"{key}/{name}": value for key, slot in optimizer.items() for name, value in slot.items()
    }
    return {**state["params"], **moments}


def test_a_finished_trial_is_not_run_again(run, capsys):
    assert run(num_tuning_trials=2, max_global_steps=3, hparam_end_index=1) == 0
    written = (run.trial("pytorch", 1) / "result.json").stat().st_mtime_ns
    assert not run.trial("pytorch", 2).exists()
    capsys.readouterr()
    assert run(num_tuning_trials=2, max_global_steps=3, resume_last_run=True) == 0
    assert (run.trial("pytorch", 1) / "result.json").stat().st_mtime_ns == written
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_existing_experiment_is_neither_overwritten_nor_continued_by_accident(run, capsys):
    assert run(max_global_steps=2) == 0
    assert run(max_global_steps=2) == 2
    assert "--resume_last_run or --overwrite" in capsys.readouterr().err
    assert run(max_global_steps=1, overwrite=True) == 0
    assert not (run.trial("pytorch", 1) / "checkpoint_2").exists()


def test_only_the_latest_checkpoint_is_kept_on_request(run):
    assert run(max_global_steps=4, save_intermediate_checkpoints=False) == 0
    assert [path.name for path in run.trial("pytorch", 1).glob("checkpoint_*")] == ["checkpoint_4"]
    assert run(experiment_name="none", max_global_steps=2, save_checkpoints=False) == 0
    assert not list(run.trial("pytorch", 1, "none").glob("checkpoint_*"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign"])
def test_a_corrupt_checkpoint_is_reported(run, capsys, damage):
    assert run(max_global_steps=2) == 0
    path = run.trial("pytorch", 1) / "checkpoint_2"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    damaged = {
        "truncated": content[:-7],
        "flipped": content,
        "foreign": b"PK\x03\x04 something else",
    }
    path.write_bytes(damaged[damage])
    result = (run.trial("pytorch", 1) / "result.json").read_bytes()
    assert run(max_global_steps=4, resume_last_run=True) == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert "Delete it to resume from the one before it" in message
    assert (run.trial("pytorch", 1) / "result.json").read_bytes() == result
    path.unlink()
    assert run(max_global_steps=4, resume_last_run=True) == 0


def test_a_checkpoint_of_another_model_is_reported(run, framework, capsys):
    assert run(framework, max_global_steps=1, workload="rosenbrock") == 0
    stored = run.trial(framework, 1)
    other = stored.parents[1] / f"rosenbrock_two_layers_{framework}"
    stored.parent.rename(other)
    flags = {"workload": "rosenbrock_two_layers", "max_global_steps": 2, "resume_last_run": True}
    assert run(framework, **flags) == 2
    assert "does not fit this submission and workload" in capsys.readouterr().err
