"""The best trials of a comparison, to be run again."""

import json

import pytest

from experiments import records
from experiments.best_points import best, main, spaces
from experiments.errors import ExperimentError
from tests.experiments.made_up import record
from workloads_extra.runner.search_space import load_trials


def trial(number, steps=None, **changes):
    return record(steps, trial=number, hyperparameters={"learning_rate": 0.1 * number}, **changes)


def test_fewest_steps_come_first_then_the_best_metric():
    missed = [trial(1, best=0.8), trial(2, best=0.94)]
    assert best(missed).spec.trial == 2
    assert best([*missed, trial(5, 60), trial(6, 40)]).spec.trial == 6


def test_a_loss_is_better_if_it_is_lower():
    found = [trial(1, best=0.8), trial(2, best=0.3), trial(3, best=0.9)]
    for one in found:
        one.goal["minimise"] = True
    assert best(found).spec.trial == 2


def test_trials_without_a_result_do_not_count():
    useless = [trial(1, reason="killed"), trial(2, best=float("nan"))]
    with pytest.raises(ExperimentError, match="no trials with hyperparameters and a result in jax"):
        spaces(useless, "jax")
    assert list(spaces([*useless, trial(3, submission="muon")], "jax")) == ["muon_digits"]


def test_the_command_writes_spaces_that_the_runner_reads(tmp_path, capsys):
    out = tmp_path / "spaces"
    found = [
        trial(1, 60),
        trial(2, 40, study=1),
        trial(3, workload="rosenbrock"),
        trial(4, 20, framework="pytorch"),
        trial(5, 20, submission="muon"),
        record(10, submission="llqr_self_tuning", hyperparameters=None),
    ]
    records.collect(found, tmp_path)
    assert main([str(tmp_path), "--framework", "jax", "--out", str(out)]) == 0
    written = {path.stem: json.loads(path.read_text()) for path in out.iterdir()}
    assert {name: round(10 * space[0]["learning_rate"]) for name, space in written.items()} == {
        "adamw_digits": 2,
        "adamw_rosenbrock": 3,
        "muon_digits": 5,
    }
    assert written == spaces(found, "jax")
    (point,) = load_trials(str(out / "adamw_digits.json"), 1, 0)
    assert point.learning_rate == pytest.approx(0.2)
    assert main([str(tmp_path), "--out", str(tmp_path / "pytorch")]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "nothing"), "--out", str(out)]) == 2
    assert "no trials with hyperparameters and a result in pytorch" in capsys.readouterr().err
