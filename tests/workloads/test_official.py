"""With AlgoPerf installed: its registry, runner and scoring take the extra workloads and our results."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workloads_extra import official

ROOT = Path(__file__).parents[2]
BASELINES = "submissions/baselines"

needs_algoperf = [
    pytest.mark.algoperf,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("algoperf") is None,
        reason="AlgoPerf is not installed; it has to be installed from its repository",
    ),
]


def python(*arguments):
    """Run Python in the repository, in a process of its own: AlgoPerf's imports warn."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CUDA_VISIBLE_DEVICES": "",
            "JAX_ENABLE_X64": "0",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def run(directory, framework, *flags):
    """Train Rosenbrock for a few steps."""
    return python(
        "-m",
        "workloads_extra.run",
        "--workload=rosenbrock",
        f"--framework={framework}",
        f"--submission_path={BASELINES}/nadamw_{framework}/submission.py",
        "--tuning_search_space=tuning_search_spaces/ranges/nadamw.json",
        f"--experiment_dir={directory}",
        "--experiment_name=study_0",
        "--rng_seed=1",
        "--max_global_steps=20",
        *flags,
    )


class TestWithAlgoPerf:
    pytestmark = needs_algoperf

    def test_every_extra_workload_is_in_the_official_registry(self):
        script = """
import json
from workloads_extra import official, registry, spec
official.register()
from algoperf import spec as theirs
from algoperf.workloads import workloads
assert spec.Workload is theirs.Workload
found = []
for name, entry in registry.WORKLOADS.items():
    for framework in registry.FRAMEWORKS:
        path = f"{workloads.BASE_WORKLOADS_DIR}{entry['workload_path']}_{framework}/workload.py"
        workload = workloads.import_workload(path, entry["workload_class_name"], workload_init_kwargs={})
        assert isinstance(workload, theirs.Workload)
        assert name in workloads.WORKLOADS
        found.append(workload.name)
print(json.dumps(found))
"""
        from workloads_extra import registry

        found = json.loads(python("-c", script).splitlines()[-1])
        assert found == [name for name in registry.WORKLOADS for _ in registry.FRAMEWORKS]

    @pytest.mark.parametrize("framework", ["jax", "pytorch"])
    def test_the_official_runner_trains_an_extra_workload(self, tmp_path, framework):
        run(tmp_path, framework, "--official_runner", "--torch_compile=false")
        trial = tmp_path / "study_0" / f"rosenbrock_{framework}" / "trial_1"
        with (trial / "eval_measurements.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        assert last["global_step"] == "20"
        assert float(last["validation/loss"]) < 40

    def test_the_official_scoring_reads_our_files_as_its_own(self, tmp_path):
        run(tmp_path / "ours", "jax")
        script = f"""
import csv, sys
from pathlib import Path
from workloads_extra import official
official.register()
sys.path.insert(0, str(official.source_directory()))
from algoperf import logger_utils
from scoring import scoring_utils
ours = Path({str(tmp_path / "ours")!r})
theirs = Path({str(tmp_path / "theirs")!r})
tail = Path("study_0/rosenbrock_jax/trial_1")
(theirs / tail).mkdir(parents=True)
with (ours / tail / "eval_measurements.csv").open(newline="") as file:
    for row in csv.DictReader(file):
        row = {{name: float(cell) for name, cell in row.items()}}
        logger_utils.write_to_csv(row, str(theirs / tail / "eval_measurements.csv"))
frames = [scoring_utils.get_experiment_df(str(path)) for path in (ours, theirs)]
for frame in frames:
    del frame["trial"]
first, second = (frame.iloc[0].to_dict() for frame in frames)
assert first.keys() == second.keys(), (first, second)
for name, value in first.items():
    assert (value == second[name]) if isinstance(value, str) else (value == second[name]).all(), name
assert scoring_utils.get_workload_metrics_and_targets("rosenbrock_jax")[0] == "validation/loss"
"""
        python("-c", script)

    def test_runs_of_both_runners_get_the_same_score(self, tmp_path):
        submissions, scores = tmp_path / "submissions", tmp_path / "scores"
        official_flags = ("--official_runner", "--torch_compile=false")
        for name, steps, flags in (
            ("short", 20, ()),
            ("long", 30, ()),
            ("official", 30, official_flags),
        ):
            run(submissions / name, "jax", f"--max_global_steps={steps}", *flags)
            tail = "study_0/rosenbrock_jax/trial_1/eval_measurements.csv"
            table = submissions / name / tail
            with table.open(newline="") as file:
                rows = list(csv.DictReader(file))
            assert float(rows[-1]["validation/loss"]) < float(rows[0]["validation/loss"])
            # As if the target was reached at the last evaluation, and every step had taken a second.
            rows[-1]["validation/loss"] = "0.0"
            for row in rows:
                row["score"] = row["accumulated_submission_time"] = row["global_step"]
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
        python(
            "-m",
            "workloads_extra.score",
            f"--submission_directory={submissions}",
            "--compute_performance_profiles",
            f"--output_dir={scores}",
        )
        with (scores / "scores.csv").open(newline="") as file:
            found = {row["submission"]: float(row["score"]) for row in csv.DictReader(file)}
        # The slower one is within a factor τ of the faster one on τ in [1.5, 4] of [1, 4].
        assert found["short"] == pytest.approx(1.0)
        assert found["long"] == pytest.approx(2.5 / 3, abs=0.02)
        assert found["official"] == found["long"]


def test_without_algoperf_its_workloads_are_explained(tmp_path, capsys):
    from workloads_extra.run import main

    if official.ALGOPERF_INSTALLED:
        assert official.knows("mnist")
        return
    flags = ["--workload=mnist", "--framework=jax", "--submission_path=s.py"]
    flags += [f"--experiment_dir={tmp_path}", "--experiment_name=n"]
    assert main(flags) == 2
    message = capsys.readouterr().err
    assert "got 'mnist'" in message
    assert "need AlgoPerf, which is not installed here" in message
    assert main([*flags, "--official_runner"]) == 2
    assert "install version 0.6 from its repository" in capsys.readouterr().err
