"""Records: whole or absent, read back as written, of these settings or of others."""

import math
from dataclasses import replace

import pytest

from experiments import comparison, records, trial
from experiments.errors import ExperimentError
from tests.experiments.made_up import record, spec


def test_a_record_reads_back_as_it_was_written(tmp_path):
    written = record(40)
    records.save(written, tmp_path)
    assert records.load(written.spec, tmp_path) == written
    assert records.load_all(tmp_path) == [written]
    assert (written.steps_to_target, written.seconds_to_target) == (40.0, 4.0)


def test_values_that_json_does_not_have(tmp_path):
    written = replace(record(None), curve={"step": [1.0], "validation/accuracy": [math.nan]})
    records.save(written, tmp_path)
    assert "NaN" not in records.path_of(written.spec, tmp_path).read_text()
    found = records.load(written.spec, tmp_path)
    assert math.isnan(found.curve["validation/accuracy"][0])
    assert math.isinf(found.steps_to_target)


def test_a_file_cut_anywhere_is_recognised(tmp_path):
    written = record(40)
    records.save(written, tmp_path)
    path = records.path_of(written.spec, tmp_path)
    text = path.read_text()
    for length in range(0, len(text) - 1, 37):
        path.write_text(text[:length])
        with pytest.raises(ExperimentError, match=r"delete it to repeat"):
            records.load(written.spec, tmp_path)


def test_a_record_of_other_settings_is_no_record(tmp_path):
    records.save(record(40), tmp_path)
    assert records.load(spec(max_global_steps=5), tmp_path) is None


def test_what_is_left_to_do(tmp_path):
    done, failed, missing, changed, damaged = (spec(trial=k) for k in range(1, 6))
    records.save(record(40, trial=1), tmp_path)
    records.save(record(reason="broken", trial=2), tmp_path)
    records.save(record(40, trial=4), tmp_path)
    records.save(record(40, trial=5), tmp_path)
    records.path_of(damaged, tmp_path).write_text("{")
    changed = replace(changed, seed=9)
    plan = [done, failed, missing, changed, damaged]
    state = comparison.inspect(plan, tmp_path)
    assert state.todo == [missing, changed, damaged]
    assert [each.spec for each in state.done] == [done, failed]
    assert len(state.notes) == 2
    assert "other settings" in state.notes[0]
    assert comparison.inspect(plan, tmp_path, retry_failed=True).todo[0] == failed


def test_collected_records_stand_for_the_folders(tmp_path):
    found = [record(40), record(None, trial=2), record(reason="broken", trial=3)]
    path = records.collect(found, tmp_path)
    assert records.load_all(tmp_path) == found
    content = path.read_bytes()
    assert records.collect(found, tmp_path).read_bytes() == content
    path.write_bytes(content[:-20])
    with pytest.raises(ExperimentError, match=r"records.jsonl.gz"):
        records.load_all(tmp_path)


def test_a_folder_belongs_to_one_comparison_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "LOCK_PATIENCE", 0.1)
    with (
        comparison.claim(tmp_path),
        pytest.raises(ExperimentError, match="another comparison"),
        comparison.claim(tmp_path),
    ):
        pass
    with comparison.claim(tmp_path):
        pass


def test_a_folder_is_cleared_unless_its_trial_goes_on_from_a_checkpoint(tmp_path):
    plain, resumed = spec(), spec(save_checkpoints=True)
    for made, kept in ((plain, False), (resumed, True)):
        folder = trial.prepare(made, tmp_path)
        (folder / "checkpoint_3").touch()
        records.save(record(40, seed=made.seed, save_checkpoints=made.save_checkpoints), tmp_path)
        again = trial.prepare(made, tmp_path)
        assert again == folder
        assert (folder / "checkpoint_3").exists() == kept
        # Whatever is kept, the trial is not over before it writes a record of its own.
        assert records.load(made, tmp_path) is None
    trial.prepare(replace(resumed, seed=10), tmp_path)
    assert not (folder / "checkpoint_3").exists()
