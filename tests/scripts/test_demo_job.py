"""The command as a user runs it: end to end, interrupted, killed, taken up again, asked for nonsense."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROSENBROCK = ("--quick", "--tasks", "rosenbrock", "--frameworks", "torch")


def command(out: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", str(out), *arguments]


def demo(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, *arguments), capture_output=True, text=True, timeout=120, check=False
    )


def outcomes(out: Path) -> dict[str, list[tuple[float, float]]]:
    """Return run ↦ (step, measure) of its curve: everything that must not depend on the clock."""
    return {
        path.name: [
            (record["step"], record["measure"])
            for record in map(json.loads, path.read_text().splitlines())
            if record["kind"] == "point"
        ]
        for path in out.glob("*.jsonl")
    }


@pytest.mark.parametrize(
    ("framework", "names"),
    [("torch", ("classifier", "autoencoder", "rosenbrock")), ("jax", ("classifier", "rosenbrock"))],
)
def test_the_quick_job_runs_reports_and_then_only_reports(tmp_path, framework, names):
    arguments = ("--quick", "--frameworks", framework, "--tasks", ",".join(names))
    runs = 2 * len(names)
    first = demo(tmp_path, *arguments)
    assert first.returncode == 0, first.stderr
    assert len(outcomes(tmp_path)) == runs
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    rows = first.stdout.split("Median over seeds")[0]
    assert all(name in rows for name in names)
    assert "missed" not in rows
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.jsonl")}
    second = demo(tmp_path, *arguments)
    assert second.returncode == 0, second.stderr
    assert f"{runs} of {runs} runs are there already" in second.stdout
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.jsonl")}


def test_methods_share_weights_and_a_corrupt_file_is_repeated_with_the_same_outcome(tmp_path):
    arguments = (*ROSENBROCK, "--seeds", "0,1")
    assert demo(tmp_path, *arguments).returncode == 0
    before = outcomes(tmp_path)
    starts = {name: curve[0] for name, curve in before.items()}
    for seed in (0, 1):
        base, llqr = (
            starts[f"rosenbrock-torch-{method}-{seed}.jsonl"] for method in ("base", "llqr")
        )
        assert base == llqr
    assert starts["rosenbrock-torch-base-0.jsonl"] != starts["rosenbrock-torch-base-1.jsonl"]
    path = tmp_path / "rosenbrock-torch-llqr-0.jsonl"
    path.write_text(path.read_text()[:-40])
    again = demo(tmp_path, *arguments)
    assert again.returncode == 0
    assert "corrupt result file" in again.stderr and path.name in again.stderr
    assert "3 of 4 runs are there already" in again.stdout
    assert outcomes(tmp_path) == before


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_job_keeps_its_runs_and_ends_as_an_undisturbed_one(tmp_path, signal_number):
    arguments = (*ROSENBROCK, "--seeds", ",".join(map(str, range(4))))
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    job = subprocess.Popen(
        command(broken, *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(outcomes(broken)) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(job.pid, signal_number)
    _, errors = job.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in broken.glob("*.jsonl")}
    assert len(kept) >= 2
    if signal_number == signal.SIGINT:
        assert job.returncode == 130
        assert "start again to go on" in errors
        return
    resumed = demo(broken, *arguments)
    assert resumed.returncode == 0, resumed.stderr
    assert "of 8 runs are there already" in resumed.stdout
    unchanged = [path for path, when in kept.items() if path.stat().st_mtime_ns == when]
    assert len(unchanged) >= 2
    assert demo(whole, *arguments).returncode == 0
    assert outcomes(broken) == outcomes(whole)
    assert not list(broken.glob("*.tmp"))


def test_a_worker_that_cannot_start_is_reported_and_nothing_is_lost(tmp_path, monkeypatch):
    # A module of this name that fails stands in for a broken installation.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('torch is broken here')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    result = demo(tmp_path / "out", *ROSENBROCK)
    assert result.returncode == 1
    assert "the torch worker ended with status 1" in result.stderr
    assert "rosenbrock-torch-base-0" in result.stderr
    assert "torch is broken here" in (tmp_path / "out" / "torch.log").read_text()
    assert not list((tmp_path / "out").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--tasks", "imagenet"),
            ("unknown tasks imagenet", "classifier, autoencoder, rosenbrock"),
        ),
        (("--frameworks", "numpy"), ("unknown frameworks numpy", "torch, jax")),
        (("--seeds", "a"), ("seeds must be integers", "'a'")),
        (("--seeds=-1",), ("seeds must be integers", "'-1'")),
        (("--tasks", ","), ("unknown tasks ','", "known")),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tmp_path, arguments, expected):
    result = demo(tmp_path, *arguments)
    assert result.returncode == 2
    for text in expected:
        assert text in result.stderr
