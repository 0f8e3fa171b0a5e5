"""The procedure that sets targets, on a budget of a few steps."""

import json

import pytest

from workloads_extra import baseline, registry, set_targets, targets
from workloads_extra.runner.search_space import load_trials

pytest.importorskip("torch")


@pytest.fixture
def small_file(tmp_path, monkeypatch):
    """A copy of the file of targets, and budgets of a few steps."""
    path = tmp_path / "targets.json"
    path.write_text(targets.PATH.read_text())
    monkeypatch.setattr(targets, "PATH", path)
    monkeypatch.setattr(baseline, "BUDGETS", {"rosenbrock": 12, "grokking": 4})
    monkeypatch.setattr(baseline, "OWN_BUDGETS", {})
    targets._read.cache_clear()
    yield path
    targets._read.cache_clear()


def command(*names):
    arguments = ["--framework=pytorch", "--trials=2", "--repeats=3", *names]
    return set_targets.main(arguments)


def test_the_command_writes_the_median_of_the_repeats(small_file, capsys):
    before = json.loads(small_file.read_text())["workloads"]
    assert command("rosenbrock") == 0
    after = json.loads(small_file.read_text())["workloads"]
    entry = after["rosenbrock"]
    found = sorted(run["validation"] for run in entry["procedure"]["repeats"])
    assert len(found) == 3
    assert entry["validation_target"] == pytest.approx(found[1], rel=1e-2)
    assert entry["validation_target"] >= found[1]
    assert entry["test_target"] >= max(run["test"] for run in entry["procedure"]["repeats"])
    assert entry["step_hint"] == 12
    assert entry["max_runtime_sec"] == set_targets.SHORTEST_RUNTIME
    assert {name: before[name] for name in before if name != "rosenbrock"} == {
        name: after[name] for name in after if name != "rosenbrock"
    }
    assert command("rosenbrock") == 0
    again = json.loads(small_file.read_text())["workloads"]["rosenbrock"]
    assert again["validation_target"] == entry["validation_target"]
    assert "repeat" in capsys.readouterr().out


def test_a_stated_target_is_kept(small_file, monkeypatch):
    monkeypatch.setattr(baseline, "STATED_TARGETS", {"grokking": 0.001})
    assert command("grokking_mini") == 0
    entry = json.loads(small_file.read_text())["workloads"]["grokking_mini"]
    assert entry["validation_target"] == 0.001
    assert entry["test_target"] <= min(run["test"] for run in entry["procedure"]["repeats"])


def test_a_target_that_no_point_reaches_leaves_the_file_as_it_was(small_file, capsys):
    before = small_file.read_text()
    assert command("grokking_mini") == 1
    assert "no point reaches 0.99 on grokking_mini" in capsys.readouterr().err
    assert small_file.read_text() == before


def test_a_point_can_be_given(small_file, capsys):
    assert command("rosenbrock", "--point=7") == 0
    procedure = json.loads(small_file.read_text())["workloads"]["rosenbrock"]["procedure"]
    point = load_trials(str(baseline.SEARCH_SPACE), 30, 0)[6]
    assert procedure["hyperparameters"] == point._asdict()
    assert procedure["trials"] == "none; point 7 of the search space"
    assert len(procedure["repeats"]) == 3
    with pytest.raises(SystemExit):
        command("rosenbrock", "--point=0")
    assert "--point must be at least 1" in capsys.readouterr().err


def test_a_lucky_point_gives_way_to_the_next_best(small_file, monkeypatch):
    """Where runs reach the target by point and seed; evaluations are ten steps apart."""
    monkeypatch.setattr(baseline, "BUDGETS", {"grokking": 500})
    reached = {
        "never": {},
        "late": {0: 40, 1: 10, 2: 10},
        "tied": {0: 60},
        "early": {0: 40, 1: 90, 2: 60},
        "lucky": {0: 30, 3: 10},
        "slow": {0: 60},
    }

    runs = []

    def run(self, point, seed, max_steps):
        runs.append((point, seed, max_steps))
        step = reached[point].get(seed, 1000)
        found = 1.0 if step <= max_steps else 0.1
        return baseline.Outcome(validation=found, test=found, step=step, seconds=1.0)

    monkeypatch.setattr(baseline.Baseline, "run", run)
    nadamw = baseline.Baseline("grokking_mini", "pytorch")
    chosen = nadamw.tune(list(reached), 0, lambda line: None)
    # The fewest steps first, then in the order of the search space; the last run ended at 1.5 times 30 steps.
    assert chosen == ["lucky", "late", "early", "tied"]
    assert [limit for *_, limit in runs] == [500, 500, 60, 60, 60, 50]
    point, outcomes = nadamw.repeat(["lucky", "early", "late"], [1, 2, 3])
    assert point == "early"
    assert [outcome.step for outcome in outcomes] == [90, 60, 1000]
    assert [point for point, *_ in runs[-5:]] == ["lucky", "lucky", "early", "early", "early"]


def test_an_interrupted_command_repeats_no_finished_run(small_file, tmp_path, monkeypatch):
    journal = f"--journal={tmp_path / 'journal.json'}"
    train, runs = baseline.Baseline._run, []

    def counted(self, *arguments):
        runs.append(arguments)
        if len(runs) == 4:
            raise KeyboardInterrupt
        return train(self, *arguments)

    assert command("rosenbrock") == 0
    undisturbed = json.loads(small_file.read_text())["workloads"]["rosenbrock"]
    monkeypatch.setattr(baseline.Baseline, "_run", counted)
    with pytest.raises(KeyboardInterrupt):
        command("rosenbrock", journal)
    assert command("rosenbrock", journal) == 0
    assert len(runs) == 1 + 2 + 3  # the interrupted run, two trials and three repeats
    resumed = json.loads(small_file.read_text())["workloads"]["rosenbrock"]
    assert without_times(resumed) == without_times(undisturbed)


def without_times(entry):
    repeats = [{**run, "seconds": None} for run in entry["procedure"]["repeats"]]
    return {**entry, "procedure": {**entry["procedure"], "repeats": repeats}}


@pytest.mark.parametrize("content", ["{", "[]", '{"run": {"step": 1}}'])
def test_a_file_that_is_no_journal_is_refused(tmp_path, capsys, content):
    path = tmp_path / "journal.json"
    path.write_text(content)
    with pytest.raises(SystemExit):
        command("rosenbrock", f"--journal={path}")
    assert "is not a journal" in capsys.readouterr().err
    assert path.read_text() == content


def test_unknown_workloads_are_refused(capsys):
    with pytest.raises(SystemExit):
        command("digit")
    assert "did you mean 'digits'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("digits", 0.98765, 0.9876),
        ("digits_autoencoder", 16.321, 16.4),
        ("digits_autoencoder", 16.3, 16.3),
        ("rosenbrock", 3.2101e-5, 3.22e-5),
        ("rosenbrock", 1e-12, 1e-6),
    ],
)
def test_targets_are_rounded_to_the_easier_side(name, value, shown):
    assert set_targets._presentable(value, baseline.Baseline(name, "pytorch")) == shown


def test_every_workload_has_a_budget():
    assert baseline.BUDGETS.keys() == {registry.base_name(name) for name in registry.WORKLOADS}
