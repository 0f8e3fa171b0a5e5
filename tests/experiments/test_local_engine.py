"""The local engine: processes of their own, failures with reasons, and nothing lost when it is killed."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from experiments import comparison, records, submissions
from experiments.compare_command import main
from experiments.engines import environment
from experiments.engines.environment import Room, make_room
from experiments.engines.local import LocalEngine
from experiments.errors import ExperimentError
from experiments.plan import Budget, Limits, make_plan
from tests.experiments.submissions_for_tests import write

pytest.importorskip("jax")
pytest.importorskip("optax")


def plan(names, *, trials=1, studies=1, steps=3):
    found = submissions.find(names, ["jax"], "ranges")
    limits = Limits(steps=steps, time_budget=100.0)
    return make_plan(found, ["rosenbrock"], Budget(studies=studies, trials=trials), limits)


def complete(specs, out, *, workers=2, timeout=None, **keywords):
    with comparison.claim(out) as lock:
        engine = LocalEngine(Room(workers=workers, threads=1), timeout, inherited=(lock,))
        return comparison.complete(specs, out, engine, stream=None, **keywords)


def test_every_way_to_fail_ends_in_a_record_with_a_reason(tmp_path):
    kinds = ["working", "raising", "killed", "leaving"]
    specs = plan([write(tmp_path, kind) for kind in kinds])
    found = {r.spec.submission: r for r in complete(specs, tmp_path / "out")}
    reasons = {name: each.reason for name, each in found.items()}
    assert reasons["working"] is None
    assert reasons["raising"] == "ValueError: out of luck"
    assert "SIGKILL" in reasons["killed"]
    assert "status 7" in reasons["leaving"]
    log = found["raising"].spec.directory(tmp_path / "out") / "log.txt"
    assert "Traceback" in log.read_text()
    working = found["working"]
    assert working.curve["step"] == [1.0, 3.0]
    assert working.result["global_step"] == 3
    assert working.about["version.jax"]
    # The same files as python -m workloads_extra.run leaves, where AlgoPerf's scoring looks for them.
    folder = tmp_path / "out/trials/working_jax/study_0/rosenbrock_jax/trial_1"
    names = {path.name for path in folder.iterdir()}
    assert names >= {"eval_measurements.csv", "measurements.csv", "hparams.json", "result.json"}
    assert names >= {"meta_data_0.json", "flags_0.json", "spec.json", "record.json", "log.txt"}

    # Failed trials are kept, and run again on request only.
    for name in ("raising", "killed", "leaving"):
        (tmp_path / f"{name}_jax" / "submission.py").write_text(
            "from submissions.baselines.adamw_jax.submission import *\n"
        )
    before = records.path_of(working.spec, tmp_path / "out").stat().st_mtime_ns
    kept = complete(specs, tmp_path / "out")
    assert sum(record.failed for record in kept) == 3
    again = complete(specs, tmp_path / "out", retry_failed=True)
    assert again[0].spec.submission == "working"
    assert not any(record.failed for record in again)
    assert records.path_of(working.spec, tmp_path / "out").stat().st_mtime_ns == before


def test_a_trial_that_takes_too_long_fails(tmp_path):
    (found,) = complete(plan([write(tmp_path, "endless")]), tmp_path / "out", timeout=2.0)
    assert found.reason == "the process was ended by SIGALRM; it ran longer than --timeout"


def started(out):
    """When the trials began that have begun so far."""
    return sorted(path.stat().st_mtime_ns for path in out.glob("trials/**/spec.json"))


def test_killed_at_random_instants_it_ends_with_the_same_results(tmp_path):
    name = write(tmp_path, "slow")
    command = [sys.executable, "scripts/compare.py", "--submissions", name]
    command += ["--workloads=rosenbrock", "--frameworks=jax", "--studies=2", "--trials=2"]
    command += ["--steps=30", "--workers=2", "--time-budget=100"]
    instants = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, f"--out={tmp_path / 'killed'}"],
            cwd=submissions.ROOT,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        # A busy machine must not turn this into a test of being killed before the first trial.
        seen = started(tmp_path / "killed")
        until = time.monotonic() + 60.0
        while started(tmp_path / "killed") == seen and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(instants.uniform(0.0, 2.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    specs = plan([name], trials=2, studies=2, steps=30)
    killed = complete(specs, tmp_path / "killed")
    whole = complete(specs, tmp_path / "whole")
    assert len(killed) == len(whole) == 4
    assert not any(record.failed for record in killed)
    assert [r.curve["validation/loss"] for r in killed] == [
        r.curve["validation/loss"] for r in whole
    ]
    assert [r.curve["step"] for r in killed] == [r.curve["step"] for r in whole]
    assert [r.spec for r in killed] == [r.spec for r in whole] == specs


def test_no_trial_outlives_the_program(tmp_path):
    name = write(tmp_path, "endless")
    out = tmp_path / "out"
    command = [sys.executable, "scripts/compare.py", "--submissions", name]
    command += ["--workloads=rosenbrock", "--frameworks=jax", "--studies=1", "--trials=1"]
    process = subprocess.Popen(
        [*command, f"--out={out}"],
        cwd=submissions.ROOT,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    log = out / "trials/endless_jax/study_0/rosenbrock_jax/trial_1/flags_0.json"
    until = time.monotonic() + 60
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert log.exists()
    process.kill()
    process.wait()
    # The lock is free as soon as the last process that held it is gone.
    with comparison.claim(out):
        pass


def test_the_command_reports_and_explains(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    name = write(tmp_path, "working")
    flags = ["--submissions", name, "--workloads", "rosenbrock", "--frameworks", "jax"]
    flags += [
        "--studies",
        "1",
        "--trials",
        "1",
        "--steps",
        "3",
        "--workers",
        "1",
        "--time-budget=100",
    ]
    assert main([*flags, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "1 trials, 0 failed" in printed.out
    assert "1/1 trials" in printed.err
    assert (tmp_path / "out/report.html").exists()
    assert main([*flags, "--out", str(tmp_path / "out"), "--address", "x"]) == 2
    assert "--address needs --engine ray" in capsys.readouterr().err
    assert main([*flags, "--out", str(tmp_path / "out"), "--timeout", "0"]) == 2
    assert "--timeout must be positive" in capsys.readouterr().err
    assert main([*flags, "--out", str(tmp_path / "out"), "--clock", "process"]) == 2
    assert "it needs --cpu" in capsys.readouterr().err
    # Before any trial is run.
    assert main([*flags, "--out", str(tmp_path / "other"), "--reference", "adam"]) == 2
    assert "reference must be one of working, got 'adam'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_what_a_server_loads_starts_no_thread_and_touches_no_device(framework):
    """Otherwise the processes that it forks could hang."""
    pytest.importorskip({"jax": "jax", "pytorch": "torch"}[framework])
    code = (
        "import importlib, os, sys\nfrom experiments.engines.server import PRELOADED\n"
        f"for name in PRELOADED[{framework!r}]: importlib.import_module(name)\n"
        "bridge = sys.modules.get('jax._src.xla_bridge')\n"
        "print(len(os.listdir('/proc/self/task')), len(bridge._backends) if bridge else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=submissions.ROOT,
        env={**os.environ, **environment.thread_variables(1, False)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "0"]


def test_trials_under_torchrun_run_beside_each_other(tmp_path):
    pytest.importorskip("torch")
    found = submissions.find([write(tmp_path, "working", "pytorch")], ["pytorch"], "ranges")
    limits = Limits(steps=3, time_budget=100.0)
    budget = Budget(studies=1, trials=2)
    specs = make_plan(found, ["rosenbrock"], budget, limits, processes=2)
    both = complete(specs, tmp_path / "out")
    assert [record.reason for record in both] == [None, None]
    assert [record.result["global_step"] for record in both] == [3, 3]


def test_the_machine_is_divided_by_its_cores_or_its_gpus(monkeypatch):
    monkeypatch.setattr(environment, "usable_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert make_room() == Room(workers=8, threads=1)
    assert make_room(threads=4) == Room(workers=2, threads=4)
    assert make_room(workers=3, threads=2) == Room(workers=3, threads=2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5")
    assert make_room() == Room(workers=4, threads=2, devices=(("0",), ("2",), ("3",), ("5",)))
    assert make_room(devices_per_trial=2).devices == (("0", "2"), ("3", "5"))
    assert make_room(cpu_only=True).devices == ()
    with pytest.raises(ExperimentError, match="more than the 4 there are"):
        make_room(workers=5)
    with pytest.raises(ExperimentError, match="workers must be at least 1"):
        make_room(workers=0)


def test_each_trial_gets_its_own_gpu(tmp_path, monkeypatch):
    """Devices are handed out by name, so this needs no GPU."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    name = write(tmp_path, "working")
    with (tmp_path / "working_jax/submission.py").open("a") as file:
        file.write(
            "import os, pathlib, time\n_init = init_optimizer_state\n"
            "def init_optimizer_state(*args):\n"
            f"    mine = pathlib.Path({str(tmp_path)!r}, 'gpu_' + os.environ['CUDA_VISIBLE_DEVICES'])\n"
            "    mine.touch(exist_ok=False)\n    time.sleep(0.3)\n    mine.unlink()\n"
            "    with open(mine.with_suffix('.used'), 'a') as used: used.write('x')\n"
            "    return _init(*args)\n"
        )
    specs = plan([name], trials=4)
    engine = LocalEngine(Room(workers=2, threads=1, devices=(("3",), ("5",))))
    with comparison.claim(tmp_path / "out"):
        found = comparison.complete(specs, tmp_path / "out", engine, stream=None)
    assert [record.reason for record in found] == [None] * 4
    used = {path.stem: len(path.read_text()) for path in tmp_path.glob("*.used")}
    assert sum(used.values()) == 4
    assert used.keys() == {"gpu_3", "gpu_5"}
