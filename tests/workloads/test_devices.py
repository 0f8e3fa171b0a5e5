"""Several devices train as one does: torchrun with two processes, JAX with four host devices."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from workloads_extra.runner import checkpoints

ROOT = Path(__file__).parents[2]
BASELINES = "submissions/baselines"
STEPS = 20


def run(tmp_path, framework, name, launcher=(), **environment):
    """Run the baseline on the autoencoder in a process of its own; return the arrays of its checkpoint."""
    flags = {
        "workload": "digits_autoencoder",
        "framework": framework,
        "submission_path": f"{BASELINES}/nadamw_{framework}/submission.py",
        "tuning_search_space": "tuning_search_spaces/ranges/nadamw.json",
        "experiment_dir": str(tmp_path),
        "experiment_name": name,
        "rng_seed": 0,
        "max_global_steps": STEPS,
    }
    command = [*launcher, "-m", "workloads_extra.run"]
    command += [f"--{flag}={value}" for flag, value in flags.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    trial = tmp_path / name / f"digits_autoencoder_{framework}" / "trial_1"
    header, payload = checkpoints._read(trial / f"checkpoint_{STEPS}")
    return header, payload, done.stdout


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    torch = pytest.importorskip("torch")
    import io

    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    states = []
    for name, launcher in (("one", (sys.executable,)), ("two", torchrun)):
        header, payload, output = run(tmp_path, "pytorch", name, launcher)
        states.append(torch.load(io.BytesIO(payload), weights_only=True)["params"])
        # One process writes and prints.
        assert len([line for line in output.splitlines() if "trial 1" in line]) == 1
        assert [step for step, _ in header["progress"]["eval_results"]][-1] == STEPS
    one, two = states
    assert one.keys() == two.keys()
    for key, value in one.items():
        np.testing.assert_allclose(two[key].numpy(), value.numpy(), rtol=0, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_four_host_devices_train_as_one(tmp_path):
    pytest.importorskip("jax")
    results = []
    for count in (1, 4):
        flags = f"--xla_force_host_platform_device_count={count}"
        header, _, _ = run(
            tmp_path,
            "jax",
            f"devices_{count}",
            (sys.executable,),
            XLA_FLAGS=flags,
            JAX_ENABLE_X64="0",
        )
        floats = [entry for entry in header["index"] if entry and entry["dtype"] == "float32"]
        assert len(floats) == 48  # 16 parameters and their two moments
        results.append(header["progress"]["eval_results"][-1][1])
    one, four = results
    for metric in ("train/loss", "validation/loss", "test/loss"):
        assert four[metric] == pytest.approx(one[metric], rel=1e-5)
