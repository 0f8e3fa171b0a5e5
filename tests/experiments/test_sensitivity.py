"""Runs with another batch size or other initial weights, and the script that collects them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments import json_lines
from experiments.errors import ExperimentError
from experiments.sensitivity import Setting, picture, run, scaled, table
from experiments.submissions import ROOT, find
from workloads_extra import registry
from workloads_extra import rng as rngs

FIELDS = {"submission": "llqr_self_tuning", "workload": "rosenbrock", "framework": "pytorch"}


@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_weights_are_scaled_and_biases_are_not(framework):
    def arrays(scale):
        workload = registry.make_workload("digits", framework)
        make = scaled(workload.init_model_fn, scale)
        params, _ = make(rngs.make_rng(framework, 3))
        if framework == "pytorch":
            return [parameter.detach().numpy() for parameter in params.parameters()]
        import jax

        return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]

    plain, larger = arrays(1.0), arrays(10.0)
    assert {array.ndim for array in plain} == {1, 2}
    for one, other in zip(plain, larger, strict=True):
        np.testing.assert_allclose(other, one * (10.0 if one.ndim == 2 else 1.0), rtol=1e-6)


def test_a_run_repeats_and_counts_steps():
    (submission,) = find(["self_tuning/llqr"], ["pytorch"])
    setting = Setting(**FIELDS, seed=1)
    record = run(setting, submission, None)
    again = run(setting, submission, None)
    assert 0 < record["steps_to_target"] == again["steps_to_target"] < 2000
    assert record["best_validation"] == again["best_validation"] <= 1e-6


def record_of(name, size, steps):
    return {**FIELDS, "submission": name, "batch_size": size, "steps_to_target": steps}


def test_misses_are_shown():
    records = [record_of("a", 32, 10), record_of("a", 64, None), record_of("b", 64, 7)]
    lines = table(records, "batch_size").splitlines()
    assert lines[2:] == ["| a | 10 | – |", "| b |  | 7 |"]
    assert picture(records, "batch_size").startswith(b"\x89PNG")


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"weight_scale": 0.0}])
def test_impossible_settings_are_refused(change):
    with pytest.raises(ExperimentError, match=r"must be .*, got 0"):
        Setting(**FIELDS, seed=0, **change)


def test_the_script_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "scripts/sensitivity.py", "--out", str(tmp_path), "--seeds", "1"]
    command += ["--workloads", "rosenbrock", "--batch-sizes", "4", "--weight-scales"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    path = tmp_path / "records.jsonl"
    (record,) = json_lines.read(path)
    assert record["batch_size"] == 4
    # A marked record is kept, a line that was cut off is not.
    path.write_text(json.dumps({**record, "steps_to_target": 123}) + "\n" + '{"axis": "ba')
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert "| llqr_self_tuning | 123 |" in done.stdout
    assert len(json_lines.read(path)) == 1
    assert (tmp_path / "rosenbrock_pytorch_batch_size.png").stat().st_size > 0


def test_the_script_takes_one_thread(tmp_path):
    command = ["sensitivity.py", "--out", str(tmp_path), "--seeds", "1"]
    command += ["--workloads", "rosenbrock", "--batch-sizes", "4", "--weight-scales"]
    lines = (
        "import runpy, sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        f"sys.argv = {command!r}",
        f"runpy.run_path({str(ROOT / 'scripts' / 'sensitivity.py')!r}, run_name='__main__')",
        "import torch",
        "print(torch.get_num_threads())",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "1"


def test_unknown_names_and_no_seeds_are_refused(tmp_path):
    command = [sys.executable, "scripts/sensitivity.py", "--out", str(tmp_path)]
    for wrong in (["--workloads", "digts"], ["--submissions", "adamv"], ["--seeds", "0"]):
        done = subprocess.run([*command, *wrong], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and wrong[1] in done.stderr and "Traceback" not in done.stderr
