"""Packaged submissions hold everything and run on their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/package_submission.py"
NAMES = [f"{r}/llqr_{f}" for r in ("external_tuning", "self_tuning") for f in ("jax", "pytorch")]


def call(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_package_imports_from_an_empty_folder_with_its_own_library(name, tmp_path):
    assert call(name, "--out", tmp_path / "out").returncode == 0
    folder = tmp_path / "out/submissions" / name
    assert not list(folder.rglob("__pycache__"))
    module = f"submissions.{name.replace('/', '.')}.submission"
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'out')!r}); import {module} as own; "
        "import llqr; print(llqr.__file__); print(own.get_batch_size('mnist')); "
        "print(sorted({'jax', 'torch'} & set(sys.modules)))"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=empty,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    library, size, frameworks = result.stdout.splitlines()
    assert Path(library).is_relative_to(folder) and size == "64"
    assert frameworks == ("['jax']" if name.endswith("jax") else "['torch']")


def test_an_unknown_name_and_a_folder_that_is_there_are_errors(tmp_path):
    unknown = call("self_tuning/llqr_numpy", "--out", tmp_path)
    assert unknown.returncode == 1 and "known: external_tuning/llqr_jax" in unknown.stderr
    assert call(NAMES[0], "--out", tmp_path).returncode == 0
    again = call(NAMES[0], "--out", tmp_path)
    assert again.returncode == 1 and "must not exist yet" in again.stderr


def test_an_incomplete_submission_is_refused_and_nothing_is_written(tmp_path):
    spec = importlib.util.spec_from_file_location("package_submission", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    source = tmp_path / "root/submissions/external_tuning/bare_jax"
    source.mkdir(parents=True)
    (source / "submission.py").write_text("get_batch_size = print\n")
    (tmp_path / "root/llqr").mkdir()
    (tmp_path / "root/LICENSE").write_text("")
    with pytest.raises(script.PackagingError, match=r"tuning_search_space.json.*update_params\(\)"):
        script.package("external_tuning/bare_jax", tmp_path / "out", tmp_path / "root")
    assert not list((tmp_path / "out/submissions/external_tuning").iterdir())
