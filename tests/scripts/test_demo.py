"""The demo: a comparison from one command, which goes on where it was stopped."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("jax")
pytest.importorskip("matplotlib")


def demo(out, *flags):
    small = ["--workloads=rosenbrock", "--frameworks=jax", "--studies=1", "--trials=1", "--steps=3"]
    return subprocess.run(
        [sys.executable, "scripts/demo.py", *small, f"--out={out}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_demo_runs_reports_and_finds_its_trials_again(tmp_path):
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    assert "3 trials, 0 failed" in first.stdout
    assert (tmp_path / "report.html").exists()
    records = sorted(tmp_path.glob("trials/**/record.json"))
    assert [path.parents[3].name for path in records] == [
        "llqr_jax",
        "llqr_self_tuning_jax",
        "nadamw_jax",
    ]
    written = [path.stat().st_mtime_ns for path in records]
    second = demo(tmp_path)
    assert second.returncode == 0, second.stderr
    assert [path.stat().st_mtime_ns for path in records] == written
    assert "running" not in second.stderr


def test_a_wrong_name_lists_the_known_ones(tmp_path):
    done = demo(tmp_path, "--submissions", "nobody")
    assert done.returncode == 2
    known = done.stderr.partition("known: ")[2]
    assert "baselines/adamw" in known and "self_tuning/llqr" in known
