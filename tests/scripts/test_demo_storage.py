"""Result files: whole or absent, recognised when out of date, readable back."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.demo_job import storage
from scripts.demo_job.loop import Run
from scripts.demo_job.runner import plan
from scripts.demo_job.storage import RunSpec
from scripts.demo_job.tasks import TASKS

RUN = Run(
    curve=[
        {"step": 0, "seconds": 0.0, "measure": 2.5, "validation_accuracy": 0.1},
        {"step": 5, "seconds": 0.25, "measure": 0.005, "validation_accuracy": 0.9},
    ],
    steps_to_target=5,
    seconds_to_target=0.25,
)


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    return RunSpec(TASKS["classifier"], "torch", "llqr", 0, tmp_path)


def test_a_run_reads_back_as_it_was_written(spec):
    storage.save(spec, RUN)
    stored = storage.load(spec.path)
    assert stored.run == RUN
    assert stored.fingerprint == spec.fingerprint()


def test_a_diverged_run_is_valid_json_and_reads_back(spec):
    run = Run(curve=[{"step": 0, "seconds": 0.0, "measure": math.nan}], diverged=True)
    storage.save(spec, run)
    assert "NaN" not in spec.path.read_text()
    stored = storage.load(spec.path).run
    assert stored.diverged
    assert stored.steps_to_target is None
    assert math.isnan(stored.curve[0]["measure"])


def test_every_line_is_a_record_and_the_first_names_settings_and_versions(spec):
    storage.save(spec, RUN)
    records = [json.loads(line) for line in spec.path.read_text().splitlines()]
    assert [record["kind"] for record in records] == ["run", "point", "point", "result"]
    assert records[0]["seed"] == 0
    assert records[0]["task"]["target"] == TASKS["classifier"].target
    assert set(records[0]["versions"]) == {"llqr", "torch"}
    assert records[-1]["steps_to_target"] == 5


def test_a_file_cut_at_any_place_is_recognised(spec):
    storage.save(spec, RUN)
    text = spec.path.read_text()
    for length in range(0, len(text) - 2, 7):
        spec.path.write_text(text[:length])
        with pytest.raises(storage.CorruptFileError):
            storage.load(spec.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records[1].pop("measure"),
        lambda records: records[-1].pop("diverged"),
        lambda records: records[-1].update(seconds_to_target=None),
        lambda records: records[0].update(kind="other"),
        lambda records: records[1].update(step="five"),
    ],
)
def test_a_file_with_a_wrong_record_is_recognised(spec, change):
    storage.save(spec, RUN)
    records = [json.loads(line) for line in spec.path.read_text().splitlines()]
    change(records)
    spec.path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(storage.CorruptFileError):
        storage.load(spec.path)


def test_a_failing_write_leaves_the_old_file(spec, monkeypatch):
    storage.save(spec, RUN)
    before = spec.path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        storage.save(spec, replace(RUN, steps_to_target=10))
    assert spec.path.read_bytes() == before
    storage.remove_temporary(spec.directory)
    assert [path.name for path in spec.directory.iterdir()] == [spec.path.name]


def test_the_plan_keeps_good_files_and_repeats_corrupt_and_outdated_ones(spec):
    other = replace(spec, seed=1)
    missing = replace(spec, seed=2)
    outdated = replace(spec, seed=3, task=replace(spec.task, target=0.5))
    storage.save(spec, RUN)
    storage.save(outdated, RUN)
    other.path.write_text("{")
    current = replace(outdated, task=spec.task)
    result = plan([spec, other, missing, current])
    assert result.finished == (spec,)
    assert result.missing == (other, missing, current)
    assert len(result.notes) == 2
    assert "corrupt" in result.notes[0] and other.path.name in result.notes[0]
    assert "other settings" in result.notes[1] and current.path.name in result.notes[1]
    assert plan([spec], fresh=True).missing == (spec,)


def test_a_setting_of_one_method_does_not_outdate_the_other(spec):
    base = replace(spec, method="base")
    faster = replace(spec.task, learning_rate=0.5)
    assert replace(spec, task=faster).fingerprint() == spec.fingerprint()
    assert replace(base, task=faster).fingerprint() != base.fingerprint()
    rarer = replace(spec.task, llqr=replace(spec.task.llqr, update_interval=7))
    assert replace(spec, task=rarer).fingerprint() != spec.fingerprint()
    assert replace(base, task=rarer).fingerprint() == base.fingerprint()
