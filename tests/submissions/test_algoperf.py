"""AlgoPerf's own checks and runner on our submissions, packaged, from an empty folder."""

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULESETS = ("external_tuning", "self_tuning")
SPACE = "tuning_search_space.json"


def repository():
    """Return AlgoPerf's repository, or skip with the reason."""
    found = importlib.util.find_spec("algoperf")
    if found is None:
        pytest.skip("AlgoPerf is not installed; see docs/algoperf.md")
    root = Path(next(iter(found.submodule_search_locations))).parent
    if not (root / "tests/reference_algorithm_tests.py").is_file():
        pytest.skip(
            f"AlgoPerf's repository is not around its package ({root}); install it editable"
        )
    return root


@pytest.fixture
def packaged(tmp_path):
    """Return a function that packages a submission into an empty folder and runs a script there."""
    algoperf = repository()
    folder = tmp_path / "package"

    def run(name, script, *flags, path=()):
        if not (folder / "submissions" / name).exists():
            command = [sys.executable, ROOT / "scripts/package_submission.py", name]
            subprocess.run([*command, "--out", folder], check=True)
        search = [folder, *path, algoperf]
        changed = {"PYTHONPATH": os.pathsep.join(map(str, search)), "JAX_PLATFORMS": "cpu"}
        changed |= {"JAX_ENABLE_X64": "0", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [sys.executable, algoperf / script if isinstance(script, str) else script, *flags],
            cwd=folder,
            env={**os.environ, **changed},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    run.folder = folder
    return run


@pytest.mark.algoperf
@pytest.mark.slow
@pytest.mark.parametrize("framework", ["jax", "pytorch"])
@pytest.mark.parametrize("ruleset", RULESETS)
def test_the_reference_test_passes_on_mnist_with_a_refresh(packaged, tmp_path, ruleset, framework):
    folder = f"submissions/{ruleset}/llqr_{framework}"
    log = tmp_path / "log.pkl"
    result = packaged(
        f"{ruleset}/llqr_{framework}",
        "tests/reference_algorithm_tests.py",
        "--workload=mnist",
        f"--framework={framework}",
        "--global_batch_size=4",
        f"--submission_path={folder}/submission.py",
        f"--tuning_search_space={'None' if ruleset == 'self_tuning' else f'{folder}/{SPACE}'}",
        "--tuning_ruleset=external",
        f"--log_file={log}",
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (scalars,) = pickle.loads(log.read_bytes())["scalars"]
    assert scalars["refreshes"] == 1 and scalars["rejected_refreshes"] == 0


@pytest.mark.algoperf
@pytest.mark.parametrize("ruleset", RULESETS)
def test_the_repositorys_check_passes(packaged, tmp_path, ruleset):
    name, log = f"{ruleset}/llqr_jax", tmp_path / "check.log"
    checker = "algorithms/submission_checker.py"
    result = packaged(name, checker, "submissions", f"--log_output={log}")
    assert result.returncode == 0, result.stderr[-3000:]
    # The check reports in its log alone.
    assert "ALL CHECKS PASSED" in log.read_text()
    (packaged.folder / "submissions" / name / "submission.py").unlink()
    packaged(name, checker, "submissions", f"--log_output={log}")
    assert "does not contain submission.py" in log.read_text()


# Evaluates, hence saves, at every step; draws the same eight batches again after a restart, which AlgoPerf's
# runner begins at the start of the queue; and ends by SIGKILL where it is told to.
SAME_BATCHES = """
import os, signal
from submissions.{ruleset}.llqr_{framework} import submission as ours
from submissions.{ruleset}.llqr_{framework}.submission import get_batch_size, prepare_for_eval

batches = []

def init_optimizer_state(workload, *arguments):
    type(workload).eval_period_time_sec = property(lambda self: 0.0)
    type(workload).max_allowed_runtime_sec = property(lambda self: 1e6)
    return ours.init_optimizer_state(workload, *arguments)

def data_selection(workload, input_queue, *arguments):
    while len(batches) < 8:
        batches.append(next(input_queue))
    return batches[arguments[-2] % 8]

def update_params(**arguments):
    if arguments["global_step"] == int(os.environ.get("KILLED_AT", -1)):
        os.kill(os.getpid(), signal.SIGKILL)
    return ours.update_params(**arguments)
"""

# AlgoPerf's runner cannot take up a JAX checkpoint, of its own baselines neither: the evaluations come back
# as None, and it goes through their items.
EVALUATIONS = """
from algoperf import checkpoint_utils

restore = checkpoint_utils.flax_checkpoints.restore_checkpoint

def without_evaluations(directory, target):
    return restore(directory, target=target) | {"eval_results": {}}

checkpoint_utils.flax_checkpoints.restore_checkpoint = without_evaluations
"""

PARAMETERS = """
import sys
import numpy as np
import torch
for path in sys.argv[2:]:
    if sys.argv[1] == "jax":
        import jax
        from orbax.checkpoint import PyTreeCheckpointer
        state = PyTreeCheckpointer().restore(path)
        trees = [state["model_params"], state["optimizer_state"]]
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]
    else:
        state = torch.load(path, weights_only=False)
        leaves = [value.numpy() for value in state["model_params"].values()]
        from torch.utils._pytree import tree_leaves
        more = tree_leaves(state["optimizer_state"])
        leaves += [leaf.numpy() for leaf in more if isinstance(leaf, torch.Tensor)]
    np.savez(path + ".npz", *leaves)
"""


@pytest.mark.algoperf
@pytest.mark.slow
@pytest.mark.parametrize("framework", ["jax", "pytorch"])
@pytest.mark.parametrize("ruleset", RULESETS)
def test_a_killed_run_of_the_official_runner_continues_identically(
    packaged, tmp_path, monkeypatch, ruleset, framework
):
    import numpy as np

    name = f"{ruleset}/llqr_{framework}"
    space = tmp_path / SPACE
    point = json.loads((ROOT / "tuning_search_spaces/llqr.json").read_text())[0]
    space.write_text(json.dumps([point | {"update_interval": 10, "warmup_factor": 0.0}]))
    tuning = [f"--tuning_search_space={space}"] if ruleset == "external_tuning" else []
    packaged.folder.mkdir()
    wrapper = SAME_BATCHES.format(ruleset=ruleset, framework=framework)
    wrapper += EVALUATIONS if framework == "jax" else ""
    (packaged.folder / "same_batches.py").write_text(wrapper)

    def train(study, *flags):
        return packaged(
            name,
            ROOT / "workloads_extra/run.py",
            "--official_runner",
            "--workload=digits_autoencoder",
            f"--framework={framework}",
            "--submission_path=same_batches.py",
            f"--tuning_ruleset={ruleset.split('_')[0]}",
            *tuning,
            f"--experiment_dir={tmp_path}",
            f"--experiment_name={study}",
            "--rng_seed=5",
            "--max_global_steps=30",
            "--torch_compile=false",
            *flags,
            path=[ROOT],
        )

    result = train("whole")
    assert result.returncode == 0, result.stderr[-3000:]
    monkeypatch.setenv("KILLED_AT", "15")
    assert train("resumed").returncode == -signal.SIGKILL
    monkeypatch.delenv("KILLED_AT")
    tail = f"digits_autoencoder_{framework}/trial_1"
    assert not (tmp_path / "resumed" / tail / "checkpoint_16").exists()
    result = train("resumed", "--resume_last_run")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "resumed" / tail / "meta_data_1.json").exists()
    ends = [tmp_path / study / tail / "checkpoint_30" for study in ("whole", "resumed")]
    subprocess.run([sys.executable, "-c", PARAMETERS, framework, *ends], check=True)
    whole, resumed = (np.load(f"{end}.npz") for end in ends)
    assert whole.files == resumed.files and len(whole.files) > 32
    for leaf in whole.files:
        np.testing.assert_array_equal(whole[leaf], resumed[leaf], err_msg=leaf)
