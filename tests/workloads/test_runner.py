"""The runner end to end: files, protocol, resuming, and what happens when something is wrong."""

import contextlib
import errno
import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.workloads.conftest import BASELINES
from workloads_extra import registry
from workloads_extra.runner import bookkeeping, storage
from workloads_extra.runner.submission import batch_sizes


def rows(path):
    return [{**row} for row in storage._read_rows(path)]


def test_a_run_leaves_the_files_of_the_protocol(run, framework):
    assert run(framework, num_tuning_trials=2, max_global_steps=3) == 0
    for number in (1, 2):
        trial = run.trial(framework, number)
        names = {path.name for path in trial.iterdir()}
        expected = {"hparams.json", "meta_data_0.json", "flags_0.json", "result.json"}
        assert names >= expected | {"measurements.csv", "eval_measurements.csv", "checkpoint_3"}
        evaluations = rows(trial / "eval_measurements.csv")
        assert [row["global_step"] for row in evaluations][:1] == ["1"]
        assert evaluations[-1]["global_step"] == "3"
        wanted = {"validation/loss", "test/loss", "train/loss", "score", "total_duration"}
        wanted |= {"accumulated_submission_time", "accumulated_eval_time", "preemption_count"}
        assert wanted <= evaluations[-1].keys()
        result = storage.read_json(trial / "result.json")
        assert (result["stopped_by"], result["global_step"]) == ("max_global_steps", 3)
        meta = storage.read_json(trial / "meta_data_0.json")
        assert (meta["rng_seed"], meta["workload.target_metric_name"]) == (3, "loss")
    first, second = (
        storage.read_json(run.trial(framework, number) / "hparams.json") for number in (1, 2)
    )
    assert first.keys() == second.keys()
    assert first != second


def test_a_full_disk_loses_no_finished_trial(run, monkeypatch, capsys):
    original, failures = Path.replace, []

    def replace(self, target):
        if "trial_2" in str(target) and target.name == "measurements.csv" and len(failures) < 1:
            failures.append(target)
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    assert run(num_tuning_trials=3, max_global_steps=3) == 2
    message = capsys.readouterr().err
    assert "No space left on device" in message
    assert "--resume_last_run" in message
    finished = run.trial("pytorch", 1)
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert json.loads(before["result.json"])["global_step"] == 3
    assert not list(run.trial("pytorch", 2).glob(".*"))
    assert run(num_tuning_trials=3, max_global_steps=3, resume_last_run=True) == 0
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    assert (run.trial("pytorch", 3) / "result.json").exists()


@contextlib.contextmanager
def files_of_at_most(size):
    """Let the system refuse to write more into a file than so many bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Without this the signal ends the process instead of failing the write.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_that_the_system_refuses_leaves_no_part_of_a_file(run, capsys):
    trials = {"num_tuning_trials": 2, "max_global_steps": 3}
    assert run(**trials, hparam_end_index=1) == 0
    finished = run.trial("pytorch", 1)
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    # Tables and settings are smaller than this, checkpoints are larger.
    with files_of_at_most(5000):
        assert run(**trials, resume_last_run=True) == 2
    message = capsys.readouterr().err
    assert "checkpoint_1: File too large" in message
    assert "what was written before is intact" in message
    second = {path.name for path in run.trial("pytorch", 2).iterdir()}
    assert "measurements.csv" in second
    assert not [name for name in second if name.startswith((".", "checkpoint", "result"))]
    assert run(**trials, resume_last_run=True) == 0
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before
    assert (run.trial("pytorch", 2) / "result.json").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"workload": "digit"}, "did you mean 'digits'"),
        ({"submission_path": "nowhere/submission.py"}, "must name an existing Python file"),
        (
            {"submission_path": str(BASELINES / "wiring/common.py")},
            "does not define init_optimizer_state",
        ),
        ({"tuning_search_space": None}, "--tuning_search_space is required"),
        ({"tuning_search_space": "nowhere.json"}, "does not exist"),
        ({"tuning_ruleset": "self"}, "not allowed with --tuning_ruleset=self"),
        ({"num_tuning_trials": 0}, "--num_tuning_trials must be at least 1"),
        ({"max_global_steps": 0}, "--max_global_steps must be at least 1"),
        ({"runtime_factor": 0}, "--runtime_factor must be positive"),
        ({"eval_period_steps": 0}, "--eval_period_steps must be at least 1"),
        ({"use_wandb": True}, "--use_wandb needs AlgoPerf's own runner"),
        ({"overwrite": True, "resume_last_run": True}, "exclude each other"),
    ],
)
def test_bad_options_are_explained(run, capsys, flags, message):
    assert run(**flags) == 2
    assert message in capsys.readouterr().err
    assert not run.trial("pytorch", 1).exists()


@pytest.mark.parametrize(
    "submission", [BASELINES / "nadamw_{}", Path("submissions/external_tuning/llqr_{}")]
)
def test_a_search_space_without_a_field_the_submission_wants(
    run, framework, submission, tmp_path, capsys
):
    space = tmp_path / "space.json"
    space.write_text('[{"learning_rate": 0.01, "warmup_factor": 0.1}]')
    path = str(submission / "submission.py").format(framework)
    assert run(framework, submission_path=path, tuning_search_space=str(space)) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "'one_minus_beta1'" in message
    assert f"{space} does not have" in message


def test_batch_sizes_are_checked_against_the_devices():
    workload = registry.make_workload("rosenbrock", "pytorch")
    submission = SimpleNamespace(get_batch_size=lambda name: 10, get_eval_batch_size=None)
    assert batch_sizes(submission, "rosenbrock", workload, 2) == (10, workload.eval_batch_size)
    with pytest.raises(
        Exception, match="batch size must be a positive multiple of the 4 devices, got 10"
    ):
        batch_sizes(submission, "rosenbrock", workload, 4)
    known = {"rosenbrock": 12}

    def only_known(name):
        if name not in known:
            raise ValueError(name)
        return known[name]

    submission.get_batch_size = only_known
    assert batch_sizes(submission, "rosenbrock_ackley", workload, 4)[0] == 12
    with pytest.raises(Exception, match="no batch size for digits"):
        batch_sizes(submission, "digits", workload, 1)


class Clock:
    """Time that passes only when something says so."""

    def __init__(self):
        self.now, self.used = 1000.0, 0.0

    def time(self):
        return self.now

    def process_time(self):
        return self.used


def test_time_is_counted_as_the_protocol_says(run, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bookkeeping, "time", clock)
    cls = registry.workload_class("rosenbrock", "pytorch")
    monkeypatch.setattr(cls, "eval_period_time_sec", 3.0)
    monkeypatch.setattr(cls, "max_allowed_runtime_sec", 12.0)
    evaluate = cls.eval_model

    def slow_eval(self, *args):
        clock.now += 50.0
        return evaluate(self, *args)

    def slow_selection(workload, queue, *args):
        clock.now += 1.0
        return next(queue)

    monkeypatch.setattr(cls, "eval_model", slow_eval)
    baseline = __import__("submissions.baselines.nadamw_pytorch.submission", fromlist=["x"])
    monkeypatch.setattr(baseline, "data_selection", slow_selection)
    assert run(save_checkpoints=False) == 0
    evaluations = rows(run.trial("pytorch", 1) / "eval_measurements.csv")
    # One after the first step, then whenever three seconds have passed since the last evaluation ended;
    # at twelve seconds of submission time none is left for another one.
    assert [row["global_step"] for row in evaluations] == ["1", "4", "7", "10"]
    assert [float(row["accumulated_submission_time"]) for row in evaluations] == [1, 4, 7, 10]
    assert [float(row["accumulated_eval_time"]) for row in evaluations] == [50, 100, 150, 200]
    result = storage.read_json(run.trial("pytorch", 1) / "result.json")
    assert result["stopped_by"] == "max_runtime"
    assert result["submission_time"] == 13


def test_evaluations_at_fixed_steps_do_not_depend_on_time(run, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bookkeeping, "time", clock)
    assert run(eval_period_steps=4, max_global_steps=10, save_checkpoints=False) == 0
    evaluations = rows(run.trial("pytorch", 1) / "eval_measurements.csv")
    assert [row["global_step"] for row in evaluations] == ["1", "4", "8", "10"]


def test_time_ends_a_trial_between_evaluations_at_fixed_steps(run, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bookkeeping, "time", clock)
    cls = registry.workload_class("rosenbrock", "pytorch")
    monkeypatch.setattr(cls, "max_allowed_runtime_sec", 5.0)
    baseline = __import__("submissions.baselines.nadamw_pytorch.submission", fromlist=["x"])

    def slow_selection(workload, queue, *args):
        clock.now += 2.0
        return next(queue)

    monkeypatch.setattr(baseline, "data_selection", slow_selection)
    assert run(eval_period_steps=1000, save_checkpoints=False) == 0
    result = storage.read_json(run.trial("pytorch", 1) / "result.json")
    assert (result["stopped_by"], result["global_step"]) == ("max_runtime", 3)
    assert run(experiment_name="x", eval_period_steps=1000, runtime_factor=2) == 0
    result = storage.read_json(run.trial("pytorch", 1, "x") / "result.json")
    assert (result["stopped_by"], result["global_step"]) == ("max_runtime", 5)


def test_the_process_clock_leaves_out_what_others_use(run, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bookkeeping, "time", clock)
    baseline = __import__("submissions.baselines.nadamw_pytorch.submission", fromlist=["x"])

    def selection_on_a_busy_machine(workload, queue, *args):
        clock.now += 20.0
        clock.used += 2.0
        return next(queue)

    monkeypatch.setattr(baseline, "data_selection", selection_on_a_busy_machine)
    flags = {"max_global_steps": 3, "eval_period_steps": 1000, "save_checkpoints": False}
    assert run(runtime_factor=100, **flags) == 0
    assert storage.read_json(run.trial("pytorch", 1) / "result.json")["submission_time"] == 60
    assert run(experiment_name="x", clock="process", **flags) == 0
    result = storage.read_json(run.trial("pytorch", 1, "x") / "result.json")
    assert result["submission_time"] == pytest.approx(6, abs=1e-6)
    assert result["stopped_by"] == "max_global_steps"


@pytest.mark.parametrize(
    ("flag", "test_target", "without", "with_it"),
    [
        ("ignore_test_target", -1.0, ("max_global_steps", 5), ("targets", 1)),
        ("ignore_targets", 1e9, ("targets", 1), ("max_global_steps", 5)),
    ],
)
def test_which_targets_end_a_trial(run, monkeypatch, flag, test_target, without, with_it):
    cls = registry.workload_class("rosenbrock", "pytorch")
    monkeypatch.setattr(cls, "validation_target_value", 1e9)
    monkeypatch.setattr(cls, "test_target_value", test_target)
    limits = {"eval_period_steps": 2, "max_global_steps": 5, "save_checkpoints": False}
    for name, flags, expected in (("plain", {}, without), ("flagged", {flag: True}, with_it)):
        assert run(experiment_name=name, **flags, **limits) == 0
        result = storage.read_json(run.trial("pytorch", 1, name) / "result.json")
        assert (result["stopped_by"], result["global_step"]) == expected
        assert result["steps_to_target"] == 1


def test_self_tuning_has_one_trial_and_more_time(run, tmp_path, monkeypatch):
    submission = tmp_path / "submission.py"
    submission.write_text(
        "from submissions.baselines.nadamw_pytorch.submission import *\n"
        "from submissions.baselines.nadamw_pytorch import submission as tuned\n"
        "from types import SimpleNamespace\n"
        "def init_optimizer_state(workload, params, state, hyperparameters, rng):\n"
        "    assert hyperparameters is None\n"
        "    chosen = SimpleNamespace(learning_rate=0.1, one_minus_beta1=0.1, beta2=0.99,\n"
        "        warmup_factor=0.1, weight_decay=0.0)\n"
        "    return tuned.init_optimizer_state(workload, params, state, chosen, rng)\n"
    )
    flags = {"tuning_ruleset": "self", "tuning_search_space": None, "max_global_steps": 2}
    assert run(submission_path=str(submission), **flags) == 0
    assert storage.read_json(run.trial("pytorch", 1) / "result.json")["hyperparameters"] is None
    assert not (run.trial("pytorch", 1) / "hparams.json").exists()
