"""Writes the report of a comparison: ``report.html``, ``report.md`` and the PNGs in ``figures/``."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import page, plots, summary, tables
from experiments.errors import ExperimentError
from experiments.page import Section
from experiments.records import Record
from experiments.summary import Entry
from experiments.tables import Table
from workloads_extra.runner.storage import write_bytes

FIGURES = "figures"
SUBJECT = "llqr"
HOW_TO_READ = (
    "A study is one seed; with drawn points it also has points of its own. A submission's time in a study is "
    "that of its fastest trial, its time on a workload the median over studies. A trial that misses the "
    "target or fails counts as infinitely long.",
    "Seconds are AlgoPerf's submission time: data selection and updates, compilation in the first step "
    "included, evaluations not. They compare submissions of one framework on one machine, and by the wall's "
    "clock only under one load; by the process's clock they are CPU time, which other work changes little. "
    "Seconds of different clocks are not compared.",
    "A score is the share of workloads within a factor τ of the fastest, averaged over τ from 1 to 4: 1 is "
    "fastest everywhere. Intervals hold 95 % of 2000 redraws of the studies, the same redraws for all "
    "submissions (500 for scores); with three studies they say little more than the range.",
)


def write(
    records: Sequence[Record],
    out: Path,
    *,
    reference: str | None = None,
    subject: str = SUBJECT,
    title: str = "Time to target",
) -> str:
    """Write the report.

    Args:
        records: of all trials.
        out: folder.
        reference: submission that ratios are to; the first one that is not the subject's by default.
        subject: beginning of the labels that the report is about.
        title: of the report.

    Returns:
        Where it is, and its first words, for a terminal.

    Raises:
        ExperimentError: without records, or for an unknown reference.
    """
    if not records:
        raise ExperimentError(f"no records below {out}; run scripts/compare.py first")
    found = summary.entries(records)
    reference = _reference(found, reference, subject)
    sections, pictures = _sections(records, found, reference, subject)
    (out / FIGURES).mkdir(parents=True, exist_ok=True)
    for name, content in pictures.items():
        write_bytes(out / FIGURES / name, content)
    write_bytes(out / "report.md", page.markdown(title, sections, FIGURES).encode())
    write_bytes(out / "report.html", page.page(title, sections, pictures).encode())
    lines = [*sections[0].items, *_plain(sections[1].tables)]
    return "\n".join([*lines, f"report: {out / 'report.html'}"])


def _reference(found: Sequence[Entry], reference: str | None, subject: str) -> str:
    labels = list(dict.fromkeys(entry.submission for entry in found))
    if reference is None:
        others = [label for label in labels if not label.startswith(subject)]
        return (others or labels)[0]
    check_reference(labels, reference)
    return reference


def check_reference(labels: Iterable[str], reference: str | None) -> None:
    """Raise if a reference is none of the labels; None is the default and always there.

    Args:
        labels: of submissions.
        reference: label that ratios shall be to.

    Raises:
        ExperimentError: for an unknown reference.
    """
    known = list(dict.fromkeys(labels))
    if reference is not None and reference not in known:
        raise ExperimentError(f"reference must be one of {', '.join(known)}, got {reference!r}")


def _sections(
    records: Sequence[Record], found: Sequence[Entry], reference: str, subject: str
) -> tuple[list[Section], dict[str, bytes]]:
    """The parts of the report and its pictures."""
    pictures: dict[str, bytes] = {}
    verdicts = tuple(tables.verdicts(found, subject))
    sections = [Section("Who wins where", (_extent(records, found),), verdicts)]
    frameworks = summary.frameworks(found)
    for framework in frameworks:
        timed = summary.one_clock(summary.select(found, framework))
        for measure in summary.MEASURES if timed else (summary.STEPS,):
            name = f"profiles_{measure}_{framework}.png"
            pictures[name] = plots.profiles(found, framework, measure)
    scores = tuple(_emphasise(tables.scores(found, each), subject) for each in frameworks)
    sections.append(Section("Scores", (), (), scores, tuple(pictures)))
    for workload in summary.workloads(found):
        own = summary.frameworks(summary.select(found, workload=workload))
        drawn = {
            f"{workload}_{which}_{framework}.png": plots.curves(found, framework, workload, which)
            for framework in own
            for which in ("best", "median")
        }
        pictures |= drawn
        shown = tuple(
            _emphasise(tables.times(found, framework, workload, reference), subject)
            for framework in own
        )
        whole = tuple(
            _emphasise(tables.quality(found, framework, workload), subject)
            for framework in own
            if _went_on(summary.select(found, framework, workload))
        )
        sections.append(Section(workload, (), (), (*shown, *whole), tuple(drawn)))
    failed = tables.failures(records)
    if failed.rows:
        sections.append(Section("Failures", (), (), (failed,)))
    sections.append(Section("How to read this", HOW_TO_READ, (), (_settings(records),)))
    return sections, pictures


def _went_on(found: Sequence[Entry]) -> bool:
    """Did no target end any trial."""
    return all(record.spec.ignore_targets for entry in found for record in entry.records)


def _extent(records: Sequence[Record], found: Sequence[Entry]) -> str:
    """What was run."""
    studies = sorted({len(entry.studies) for entry in found})
    trials = sorted({len(study) for entry in found for study in entry.studies})
    own = any(record.spec.ruleset == "self" for record in records)
    hours = sum(record.wall_seconds for record in records) / 3600.0
    return (
        f"{len(records)} trials: {len({entry.submission for entry in found})} submissions, "
        f"{len(summary.workloads(found))} workloads, {_range(studies)} studies of {_range(trials)} trials"
        f"{' (self-tuning submissions have one)' if own else ''}. {hours:.2g} hours of trials on "
        f"{', '.join(sorted(_machines(records)))}."
    )


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _machines(records: Sequence[Record]) -> set[str]:
    return {
        f"{r.about.get('system')} {r.about.get('processor')} with {r.about.get('cores')} cores"
        for r in records
    }


def _settings(records: Sequence[Record]) -> Table:
    """Versions and limits, once each."""
    rows: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.about.items():
            rows.setdefault(name, set()).add(str(value))
        spec = record.spec
        rows.setdefault(f"{spec.workload}: steps at most", set()).add(str(spec.max_global_steps))
        every = spec.eval_period_steps
        rows.setdefault(f"{spec.workload}: evaluated every", set()).add(
            "workload's period" if every is None else f"{every} steps"
        )
        rows.setdefault("clock", set()).add(spec.clock)
        batch = spec.hyperparameters is None
        rows.setdefault("ruleset " + ("self-tuning" if batch else "external"), set()).add(
            spec.submission
        )
    content = [(name, ", ".join(sorted(values))) for name, values in sorted(rows.items())]
    return Table("Settings", ("what", "value"), content)


def _emphasise(table: Table, subject: str) -> Table:
    marked = tuple(k for k, row in enumerate(table.rows) if row[0].startswith(subject))
    return table._replace(emphasised=marked)


def _plain(found: Sequence[Table]) -> list[str]:
    """Tables as aligned text."""
    lines: list[str] = []
    for table in found:
        cells = [table.header, *table.rows]
        widths = [max(len(row[k]) for row in cells) for k in range(len(table.header))]
        lines += ["", table.title]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
    return lines
