"""Scores equal those of AlgoPerf's own scoring code, on its own test data and on made-up results."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import algoperf_results, scoring
from experiments.algoperf_results import Goal

ROOT = Path(__file__).parents[2]

# Scores folders of submissions with AlgoPerf's functions; prints times, profiles and scores as JSON.
OFFICIAL = """
import json, os, sys, tempfile
sys.path[:0] = [os.environ["SCORING_ROOT"], os.path.join(os.environ["SCORING_ROOT"], "scoring")]
from algoperf.workloads import workloads
from scoring import performance_profile, scoring_utils, score_submissions
folder, names, column = sys.argv[1], sys.argv[2].split(","), sys.argv[3]
workloads.BASE_WORKLOADS[:] = names
performance_profile.NUM_BASE_WORKLOADS = len(names)
goals = {name + "_jax": scoring_utils.get_workload_metrics_and_targets(name + "_jax") for name in names}
results = {each: scoring_utils.get_experiment_df(os.path.join(folder, each)) for each in os.listdir(folder)}
frame = performance_profile.compute_performance_profiles(
    results, time_col=column, min_tau=1.0, max_tau=4.0, num_points=100, scale="linear",
    output_dir=tempfile.mkdtemp())
scores = score_submissions.compute_leaderboard_score(frame)
print("RESULT " + json.dumps({
    "goals": goals,
    "profiles": {name: list(map(float, row)) for name, row in zip(frame.index, frame.to_numpy())},
    "scores": {name: float(row["score"]) for name, row in scores.iterrows()},
}))
"""

pytestmark = [
    pytest.mark.algoperf,
    pytest.mark.skipif(
        importlib.util.find_spec("algoperf") is None,
        reason="AlgoPerf is not installed; it has to be installed from its repository",
    ),
]


def official_root():
    from workloads_extra import official

    return official.source_directory()


def official_scores(folder, workloads, measure):
    root = str(official_root())
    environment = {"SCORING_ROOT": root, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    arguments = [str(folder), ",".join(workloads), algoperf_results.TIME_COLUMNS[measure]]
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL, *arguments],
        cwd=root,
        env={**os.environ, **environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def own_times(folder, goals, measure):
    def goal(name):
        metric, target = goals[name]
        return Goal(metric, target, minimise="loss" in metric or "error" in metric)

    return {
        submission.name: {
            workload.removesuffix("_jax"): scoring.workload_time(studies)
            for workload, studies in algoperf_results.times(submission, goal, measure).items()
        }
        for submission in folder.iterdir()
    }


def compare(folder, workloads, measure):
    theirs = official_scores(folder, workloads, measure)
    times = own_times(folder, theirs["goals"], measure)
    assert scoring.scores(times) == pytest.approx(theirs["scores"], rel=1e-12, abs=1e-12)
    for name, profile in scoring.profiles(times).items():
        np.testing.assert_allclose(profile, theirs["profiles"][name], rtol=0, atol=1e-12)
    return theirs["scores"], times


@pytest.mark.parametrize("measure", ["seconds", "steps"])
def test_on_the_test_data_of_the_official_scoring_code(tmp_path, measure):
    data = official_root() / "scoring" / "test_data" / "experiment_dir"
    (tmp_path / "submission").symlink_to(data, target_is_directory=True)
    _, times = compare(tmp_path, ["mnist"], measure)
    assert times["submission"].keys() == {"mnist"}


@pytest.mark.parametrize("measure", ["seconds", "steps"])
def test_on_made_up_results_of_several_submissions(tmp_path, measure):
    generator = np.random.default_rng(0)
    workloads = ["mnist", "cifar", "ogbg", "wmt"]
    metrics = {
        "mnist": "accuracy",
        "cifar": "accuracy",
        "ogbg": "mean_average_precision",
        "wmt": "bleu",
    }
    for submission, pace in (("a", 1.0), ("b", 1.7), ("c", 3.0), ("never", 1e6)):
        for study in range(3):
            for workload in workloads:
                for trial in range(5):
                    folder = (
                        tmp_path / submission / f"study_{study}" / f"{workload}_jax/trial_{trial}"
                    )
                    folder.mkdir(parents=True)
                    reached = int(pace * generator.uniform(5, 25))
                    rows = [f"validation/{metrics[workload]},score,global_step"]
                    rows += [
                        f"{1e9 if k >= reached else 0},{2.5 * k},{10 * k}" for k in range(1, 80)
                    ]
                    (folder / "eval_measurements.csv").write_text("\n".join(rows) + "\n")
    scores, _ = compare(tmp_path, workloads, measure)
    assert scores["never"] == 0.0
    assert len(set(scores.values())) == 4
