"""The report: sentences, tables, pictures and the page."""

import re

import pytest

from experiments import bootstrap, records, report, report_command, summary, tables
from experiments.errors import ExperimentError
from tests.experiments.made_up import record

pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(bootstrap, "DRAWS", 100)


def comparison():
    """Three studies: adamw needs 40, 50, 60 steps, llqr 20, 25 and misses once; muon fails."""
    found = [record(40 + 10 * k, study=k, seed=k) for k in range(3)]
    found += [record(None, study=k, seed=k, trial=2) for k in range(3)]
    for k, steps in enumerate((20, 25, None)):
        found.append(record(steps, study=k, seed=k, submission="llqr"))
        found.append(record(reason="ValueError: a|b", study=k, seed=k, submission="muon"))
    return found


def test_the_verdict_says_who_wins_by_how_much_and_how_sure():
    (sentence,) = tables.verdicts(summary.entries(comparison()))
    assert sentence.startswith(
        "digits, JAX: llqr needs fewest steps (25; adamw 50, ratio 0.5–missed"
    )


def test_the_verdict_says_where_the_subject_loses():
    found = [record(10, submission="adamw"), record(30, submission="llqr")]
    (sentence,) = tables.verdicts(summary.entries(found))
    assert "llqr loses to it: 3 times (3–3) its steps, 3 times (3–3) its seconds" in sentence
    found = [record(10, submission="adamw"), record(None, submission="llqr")]
    (sentence,) = tables.verdicts(summary.entries(found))
    assert "llqr loses: it misses the target in 1 of 1 studies" in sentence
    (sentence,) = tables.verdicts(summary.entries([record(None)]))
    assert sentence == "digits, JAX: no submission reaches the target."


def test_the_table_of_a_workload():
    table = tables.times(summary.entries(comparison()), "jax", "digits", "adamw")
    assert table.title == "digits, JAX: validation/accuracy at least 0.95"
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["llqr", "adamw", "muon"]
    assert rows["adamw"][:3] == ("3/3", "3/6", "50 (40–60)")
    assert rows["llqr"][:3] == ("2/3", "2/3", "25 (20–missed)")
    assert rows["llqr"][3].startswith("0.5 (")
    assert rows["muon"][2] == "missed"


def test_seconds_of_different_clocks_are_not_compared(tmp_path):
    found = [record(100, submission="adamw"), record(200, submission="llqr", clock="process")]
    table = tables.times(summary.entries(found), "jax", "digits", "adamw")
    assert [row[3:7] for row in table.rows] == [
        ("100", "–", "10, wall", "–"),
        ("200", "2 (2–2)", "20, process", "–"),
    ]
    assert tables.verdicts(summary.entries(found)) == [
        "digits, JAX: adamw needs fewest steps (100; llqr 200, ratio 0.5–0.5). "
        "llqr loses to it: 2 times (2–2) its steps."
    ]
    scores = tables.scores(summary.entries(found), "jax")
    assert [row[3:5] for row in scores.rows] == [("–", "–"), ("–", "–")]
    pytest.importorskip("matplotlib")
    report.write(found, tmp_path)
    assert not list(tmp_path.glob("figures/profiles_seconds*"))
    assert list(tmp_path.glob("figures/profiles_steps*"))


def test_a_reference_that_missed_gives_no_ratio():
    found = [record(None), record(10, submission="llqr"), record(None, submission="lion")]
    table = tables.times(summary.entries(found), "jax", "digits", "adamw")
    assert {row[0]: row[4] for row in table.rows} == {
        "llqr": "it missed",
        "adamw": "–",
        "lion": "–",
    }


def test_whole_runs_have_a_table_of_where_they_end(tmp_path):
    whole = {"ignore_targets": True}
    found = [
        record(40, best=0.97, **whole),
        record(30, best=0.96, trial=2, **whole),
        record(50, best=0.93, study=1, seed=1, **whole),
        record(reason="ValueError: x", study=1, seed=1, trial=2, **whole),
        record(reason="ValueError: x", submission="llqr", **whole),
    ]
    table = tables.quality(summary.entries(found), "jax", "digits")
    assert table.title == "digits, JAX: validation/accuracy of whole runs"
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows == {
        "adamw": ("2/2", "0.95 (0.93–0.97)", "0.95 (0.93–0.97)"),
        "llqr": ("0/1", "–", "–"),
    }
    report.write(found, tmp_path)
    assert table.title in (tmp_path / "report.md").read_text()
    # The last value is not always the best one.
    found[0].curve["validation/accuracy"][-1] = 0.5
    table = tables.quality(summary.entries(found[:1]), "jax", "digits")
    assert table.rows == [("adamw", "1/1", "0.5", "0.97")]
    # Where a target ended a trial, its end says nothing.
    report.write([*found, record(40, study=2)], tmp_path)
    assert "of whole runs" not in (tmp_path / "report.md").read_text()


def test_failures_are_listed_with_their_reasons():
    assert tables.failures(comparison()).rows == [("muon", "JAX", "digits", "3", "ValueError: a|b")]


def test_the_report_is_one_page_with_pictures_inside(tmp_path):
    text = report.write(comparison(), tmp_path, title="A < B")
    assert str(tmp_path / "report.html") in text
    page = (tmp_path / "report.html").read_text()
    assert "<title>A &lt; B</title>" in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert 'name="viewport"' in page
    pictures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert pictures == [
        "digits_best_jax.png",
        "digits_median_jax.png",
        "profiles_seconds_jax.png",
        "profiles_steps_jax.png",
    ]
    assert page.count("data:image/png;base64,") == len(pictures)
    markdown = (tmp_path / "report.md").read_text()
    assert "| llqr | 2/3 |" in markdown
    assert "a\\|b" in markdown
    for name in re.findall(r"\]\((.*?)\)", markdown):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_reference_must_be_there(tmp_path):
    with pytest.raises(ExperimentError, match="reference must be one of adamw, llqr, muon"):
        report.write(comparison(), tmp_path, reference="sgd")
    with pytest.raises(ExperimentError, match="no records"):
        report.write([], tmp_path)


def test_the_command_reads_several_folders_and_collects(tmp_path, capsys):
    for number, found in enumerate((comparison()[:6], comparison()[6:])):
        for each in found:
            records.save(each, tmp_path / str(number))
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert report_command.main([*folders, "--out", str(tmp_path / "all"), "--collect"]) == 0
    first = (tmp_path / "all/report.md").read_bytes()
    assert report_command.main([str(tmp_path / "all")]) == 0
    assert (tmp_path / "all/report.md").read_bytes() == first
    assert report_command.main([str(tmp_path / "none")]) == 2
    assert "no records" in capsys.readouterr().err
