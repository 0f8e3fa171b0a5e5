"""One device and several give the same parameters through the submissions."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

WORKER = Path(__file__).with_name("devices_worker.py")


def run(command, **environment):
    # A worker sees none of what pytest's own process was told about devices.
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "RANK", "WORLD_SIZE")}
    result = subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]


def compare(one, several, devices):
    assert one["devices"] == 1 and several["devices"] == devices
    assert one["fits"] == several["fits"] >= 2
    names = set(one.files) - {"devices", "fits"}
    assert names == set(several.files) - {"devices", "fits"} and len(names) >= 4
    for name in names:
        np.testing.assert_allclose(one[name], several[name], rtol=1e-6, atol=1e-6)


def test_jax_with_four_devices_is_jax_with_one(tmp_path):
    for count in (1, 4):
        flags = f"--xla_force_host_platform_device_count={count}"
        run(
            [sys.executable, WORKER, "jax", tmp_path / f"{count}.npz"],
            XLA_FLAGS=flags,
            JAX_PLATFORMS="cpu",
        )
    compare(np.load(tmp_path / "1.npz"), np.load(tmp_path / "4.npz"), 4)


def test_torchrun_with_two_processes_is_one_process(tmp_path):
    run([sys.executable, WORKER, "pytorch", tmp_path / "one"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    run([*torchrun, WORKER, "pytorch", tmp_path / "two"], OMP_NUM_THREADS="1")
    first, second = (np.load(tmp_path / f"two.{rank}.npz") for rank in (0, 1))
    compare(np.load(tmp_path / "one.0.npz"), first, 2)
    for name in first.files:
        # Processes must not drift apart by even a rounding error.
        np.testing.assert_array_equal(first[name], second[name])
