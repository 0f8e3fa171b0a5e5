"""Search spaces, tables of measurements, flags."""

import csv
import errno
from pathlib import Path

import numpy as np
import pytest

from workloads_extra.runner import search_space, storage
from workloads_extra.runner.errors import RunnerError, StorageError
from workloads_extra.runner.options import parse, without_own_flags

REQUIRED = ["--workload=w", "--framework=jax", "--submission_path=s.py"]
REQUIRED += ["--experiment_dir=d", "--experiment_name=n"]


def test_halton_points_fill_every_dimension_evenly():
    points = search_space.halton(30, 3, seed=0)
    assert points.shape == (30, 3)
    for dimension, base in enumerate((2, 3, 5)):
        # A shifted van der Corput sequence puts equally many of base·k points into each of base arcs.
        shift = np.random.default_rng(0).uniform(size=3)[dimension]
        cells = np.floor((points[:, dimension] - shift) % 1.0 * base + 1e-9).astype(int) % base
        assert set(np.bincount(cells, minlength=base)) == {30 // base}
    np.testing.assert_array_equal(points, search_space.halton(30, 3, seed=0))
    assert not np.allclose(points, search_space.halton(30, 3, seed=1))


def test_ranges_and_choices(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(
        '{"lr": {"min": 1e-4, "max": 1e-2, "scaling": "log"},'
        ' "decay": {"min": -1, "max": 3, "scaling": "linear"}, "kind": {"feasible_points": ["a", "b"]}}'
    )
    trials = search_space.load_trials(str(path), 200, seed=1)
    rates = np.log10([trial.lr for trial in trials])
    decays = np.array([trial.decay for trial in trials])
    assert (rates.min(), rates.max()) == pytest.approx((-4, -2), abs=0.05)
    assert np.median(rates) == pytest.approx(-3, abs=0.05)
    assert (decays.min(), decays.max()) == pytest.approx((-1, 3), abs=0.1)
    assert {trial.kind for trial in trials} == {"a", "b"}


def test_listed_points_are_taken_in_order(tmp_path):
    path = tmp_path / "space.json"
    path.write_text('[{"lr": 1.0}, {"lr": 2.0}, {"lr": 3.0}]')
    assert [trial.lr for trial in search_space.load_trials(str(path), 2, seed=0)] == [1.0, 2.0]
    assert len(search_space.load_trials(str(path), 9, seed=0)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "non-empty object"),
        ("3", "non-empty object"),
        ('[{"a": 1}, {"b": 2}]', r"point 1 and point 0 differ in the fields \['a', 'b'\]"),
        ('{"a": {"min": 0}}', r"field 'a' needs .* lacks \['max', 'scaling'\]"),
        ('{"a": {"min": 0, "max": 1, "scaling": "log"}}', "log with min > 0"),
        ('{"a": {"min": 0, "max": 1, "scaling": "cubic"}}', "needs scaling linear"),
    ],
)
def test_malformed_search_spaces(tmp_path, text, message):
    path = tmp_path / "space.json"
    path.write_text(text)
    with pytest.raises(RunnerError, match=message):
        search_space.load_trials(str(path), 2, seed=0)


def test_missing_hyperparameters_look_missing_to_hasattr():
    point = search_space.make_hyperparameters({"lr": 1.0}, "space.json")
    assert hasattr(point, "lr")
    assert not hasattr(point, "label_smoothing")
    assert point._asdict() == {"lr": 1.0}
    with pytest.raises(AttributeError, match=r"'beta', which space.json does not have; it has lr"):
        _ = point.beta


def test_a_table_takes_new_columns_and_forgets_later_steps(tmp_path):
    path = tmp_path / "table.csv"
    table = storage.Table(path)
    table.append({"a": 1.5, "global_step": 1})
    table.append({"b": 2, "global_step": 5})
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["a", "global_step", "b"],
            ["1.5", "1", ""],
            ["", "5", "2"],
        ]
    again = storage.Table(path)
    again.keep_until(4)
    again.append({"a": 3, "global_step": 5})
    with path.open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "global_step"], ["1.5", "1"], ["3", "5"]]


@pytest.mark.parametrize("step", ["open", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file.json"
    storage.write_json(path, {"old": 1})

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(StorageError, match=r"cannot write .*file.json: No space left"):
        storage.write_json(path, {"new": 2})
    monkeypatch.undo()
    assert storage.read_json(path) == {"old": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ([], True),
        (["--save_checkpoints"], True),
        (["--nosave_checkpoints"], False),
        (["--save_checkpoints=False"], False),
        (["--save_checkpoints=true"], True),
    ],
)
def test_switches_are_written_as_for_the_official_runner(flag, value):
    assert parse([*REQUIRED, *flag]).save_checkpoints is value


def test_a_switch_is_true_or_false(capsys):
    with pytest.raises(SystemExit):
        parse([*REQUIRED, "--overwrite=maybe"])
    assert "must be true or false, got 'maybe'" in capsys.readouterr().err


def test_the_official_runner_gets_every_flag_but_the_one_it_does_not_know():
    flags = ["--workload", "mnist", "--experiment_dir=/tmp/official_runner", "--overwrite", "true"]
    own = [["--official_runner"], ["--official_runner=true"], ["--noofficial_runner"]]
    for flag in [*own, ["--official_runner", "true"]]:
        assert without_own_flags([*flags[:3], *flag, *flags[3:]]) == flags
