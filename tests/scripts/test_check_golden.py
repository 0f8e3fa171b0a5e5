"""``scripts/check_golden.py`` on the shipped file and on files made here by an independent oracle.

The oracle writes other architectures in the same format: dense Hessians and Fishers by JAX autodiff, and the
inner solver as plain gradient descent on jax.grad of m(−U(f) g), so it shares nothing with the library.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "check_golden.py"
SHIPPED = ROOT / "tests" / "data" / "mlp.npz"
BACKENDS = ("torch", "jax")

CONVOLUTIONAL = [
    ["conv3x3_stride2_same", "gelu_exact"],
    ["conv3x3_stride2_same", "tanh"],
    ["flatten_dense", "log_softmax"],
]
FOUR_LAYERS = [
    ["dense", "gelu_exact"],
    ["dense", "tanh"],
    ["dense", "gelu_exact"],
    ["dense", "log_softmax"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def make_problem(architecture: list, seed: int) -> dict[str, np.ndarray]:
    """Return the inputs of a golden file: batch, weights, probe and solver settings."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    if architecture is CONVOLUTIONAL:
        x = rng.standard_normal((5, 5, 6, 2))  # odd and even image sizes pad differently
        kernels = [(3, 3, 2, 3), (3, 3, 3, 2), (2 * 2 * 2, 4)]
    else:
        x = rng.standard_normal((6, 5))
        kernels = [(5, 4), (4, 3), (3, 4), (4, 3)]
    for index, kernel in enumerate(kernels):
        shapes[f"layers_{index}/bias"] = kernel[-1:]
        shapes[f"layers_{index}/kernel"] = kernel
    values = {"x": x, "y": rng.integers(0, kernels[-1][-1], len(x))}
    for name, shape in shapes.items():
        values[f"params/{name}"] = 0.5 * rng.standard_normal(shape)
        values[f"probe/{name}"] = rng.standard_normal(shape)
    values["architecture"] = np.array(json.dumps(architecture))
    values["label_smoothing"] = np.array(0.1)
    values["inner_learning_rate"] = np.array(2e-3)
    values["inner_momentum"] = np.array(0.9)
    values["inner_steps"] = np.array(4)
    return values


@pytest.fixture(scope="module", params=["convolutional", "four_layers"])
def other_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("jax", reason="the oracle is written with JAX autodiff")
    from tests.scripts.golden_oracle import results

    architecture = CONVOLUTIONAL if request.param == "convolutional" else FOUR_LAYERS
    problem = make_problem(architecture, seed=3)
    path = tmp_path_factory.mktemp("golden") / f"{request.param}.npz"
    np.savez(path, **problem, **results(architecture, problem))
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_shipped_file_passes(backend: str) -> None:
    pytest.importorskip(backend)
    done = run(str(SHIPPED), "--backend", backend)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(SHIPPED) as archive:
        inputs = ("params/", "probe/", "architecture", "x", "y", "inner_", "label_smoothing")
        results = [name for name in archive.files if not name.startswith(inputs)]
    lines = {line.split()[1] for line in done.stdout.splitlines() if "PASS" not in line}
    assert lines == {name for name in results if name != "y"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_architectures_pass(backend: str, other_file: Path) -> None:
    pytest.importorskip(backend)
    done = run(str(other_file), "--backend", backend)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_changed_number_fails(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with np.load(SHIPPED) as archive:
        values = {name: archive[name] for name in archive.files}
    values["fit/newton/kfac/objective"] = values["fit/newton/kfac/objective"] * (1 + 1e-8)
    np.savez(tmp_path / "changed.npz", **values)
    done = run(str(tmp_path / "changed.npz"), "--backend", "torch")
    assert done.returncode == 1
    assert "ABOVE LIMIT" in done.stdout
    assert "fit/newton/kfac/objective" in done.stdout.splitlines()[-1]


def test_unknown_entries_are_not_passed_over(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with np.load(SHIPPED) as archive:
        values = {name: archive[name] for name in archive.files if not name.startswith("fit/")}
    np.savez(tmp_path / "more.npz", **values, **{"fit/fisher_sum/spectral/objective": 1.0})
    done = run(str(tmp_path / "more.npz"), "--backend", "torch")
    assert done.returncode == 1
    assert "UNKNOWN ENTRY" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no file"), (b"not a zip file", "not a readable"), ("empty", "lacks architecture")],
)
def test_unusable_files_say_why(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "bad.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "empty":
        np.savez(path, x=np.zeros(2))
    done = run(str(path), "--backend", "torch")
    assert done.returncode == 2
    assert message in done.stderr
