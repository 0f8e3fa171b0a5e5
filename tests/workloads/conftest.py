"""Runs of the runner, for tests of its protocol, its checkpoints and its files."""

from pathlib import Path

import pytest

from workloads_extra.run import main

BASELINES = Path("submissions/baselines")
FRAMEWORKS = {"jax": "jax", "pytorch": "torch"}


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    pytest.importorskip(FRAMEWORKS[request.param])
    return request.param


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Call the runner on Rosenbrock with the NadamW baseline; keywords are further flags."""
    monkeypatch.chdir(Path(__file__).parents[2])

    def call(framework="pytorch", **flags):
        flags = {
            "workload": "rosenbrock",
            "framework": framework,
            "submission_path": str(BASELINES / f"nadamw_{framework}/submission.py"),
            "tuning_search_space": "tuning_search_spaces/ranges/nadamw.json",
            "experiment_dir": str(tmp_path),
            "experiment_name": "study_0",
            "rng_seed": 3,
            **flags,
        }
        return main([f"--{name}={value}" for name, value in flags.items() if value is not None])

    call.trial = lambda framework, number, study="study_0": (
        tmp_path / study / f"rosenbrock_{framework}" / f"trial_{number}"
    )
    return call
