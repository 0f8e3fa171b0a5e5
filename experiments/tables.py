"""The tables of a report, as rows of text, and the sentences above them."""

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from experiments import bootstrap, summary
from experiments.bootstrap import Interval
from experiments.records import Record
from experiments.summary import SECONDS, STEPS, Entry

MISSED = "missed"
NOT_COMPARED = "–"
"""Stands for comparisons of seconds that were counted by different clocks."""


class Table(NamedTuple):
    """Rows of text under a header.

    Attributes:
        title: what it shows.
        header: names of the columns.
        rows: of cells; the first cell names the row.
        emphasised: indices of rows to stand out.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    emphasised: tuple[int, ...] = ()


def framework_name(framework: str) -> str:
    """Return a framework's name as people write it."""
    return {"jax": "JAX", "pytorch": "PyTorch"}.get(framework, framework)


def scores(found: Sequence[Entry], framework: str) -> Table:
    """Return the scores of one framework."""
    own = summary.select(found, framework)
    total, timed = len(summary.workloads(own)), summary.one_clock(own)
    rows = [
        (
            each.submission,
            f"{each.score[STEPS]:.3f}",
            _interval(each.interval[STEPS], "{:.2f}"),
            f"{each.score[SECONDS]:.3f}" if timed else NOT_COMPARED,
            _interval(each.interval[SECONDS], "{:.2f}") if timed else NOT_COMPARED,
            f"{each.workloads_reached}/{total}",
        )
        for each in summary.standings(own)
    ]
    header = ("submission", "score, steps", "95 %", "score, seconds", "95 %", "workloads reached")
    return Table(f"Scores, {framework_name(framework)}", header, rows)


def times(found: Sequence[Entry], framework: str, workload: str, reference: str) -> Table:
    """Return times to target on one workload, fewest steps first, with ratios to a reference."""
    own = sorted(summary.select(found, framework, workload), key=_order)
    base = next((entry for entry in own if entry.submission == reference), None)
    rows = []
    for entry in own:
        trials = entry.records
        row = [
            entry.submission,
            f"{entry.reached}/{len(entry.studies)}",
            f"{sum(math.isfinite(r.steps_to_target) for r in trials)}/{len(trials)}",
        ]
        for measure, form in ((STEPS, "{:.0f}"), (SECONDS, "{:.3g}")):
            compared = measure == STEPS or summary.one_clock(own)
            clock = "" if compared else f", {trials[0].spec.clock}"
            row.append(spread(entry.times(measure), form) + clock)
            row.append(_ratio(entry, base, measure) if compared else NOT_COMPARED)
        rows.append((*row, "–" if math.isnan(entry.best) else f"{entry.best:.4g}"))
    goal = _goal(own)
    header = (
        "submission",
        "studies",
        "trials",
        "steps (range)",
        f"÷ {reference} (95 %)",
        "seconds (range)",
        f"÷ {reference} (95 %)",
        "best",
    )
    return Table(f"{workload}, {framework_name(framework)}: {goal}", header, rows)


def quality(found: Sequence[Entry], framework: str, workload: str) -> Table:
    """Return the validation metric of trials that went on to the end, there and at its best.

    Args:
        found: all entries; of a submission's trials in a study the best counts.
        framework: whose.
        workload: key of the registry.
    """
    own = sorted(summary.select(found, framework, workload), key=_order)
    goal = next((entry.goal for entry in own if entry.goal), {})
    choose = min if goal.get("minimise") else max
    rows = []
    for entry in own:
        known = [[r for r in study if not math.isnan(r.best)] for study in entry.studies]
        chosen = [choose(study, key=lambda record: record.best) for study in known if study]
        ends, bests = [record.last for record in chosen], [record.best for record in chosen]
        cells = [spread(values, "{:.4g}") if chosen else "–" for values in (ends, bests)]
        rows.append((entry.submission, f"{len(chosen)}/{len(entry.studies)}", *cells))
    header = ("submission", "studies", "at the end (range)", "best (range)")
    title = f"{workload}, {framework_name(framework)}: {goal.get('metric')} of whole runs"
    return Table(title, header, rows)


def verdicts(found: Sequence[Entry], subject: str = "llqr") -> list[str]:
    """Return who wins where, by how much and how sure, and where the subject's submissions stand.

    Args:
        found: all entries.
        subject: beginning of the labels whose place is named.

    Returns:
        One sentence or two per framework and workload.
    """
    sentences = []
    for framework in summary.frameworks(found):
        for workload in summary.workloads(summary.select(found, framework)):
            own = sorted(summary.select(found, framework, workload), key=_order)
            place = f"{workload}, {framework_name(framework)}"
            winner = own[0]
            if math.isinf(winner.time(STEPS)):
                sentences.append(f"{place}: no submission reaches the target.")
                continue
            text = f"{place}: {winner.submission} needs fewest steps ({winner.time(STEPS):.0f}"
            rivals = [entry for entry in own[1:] if not _same_kind(entry, winner, subject)]
            if rivals:
                text += f"; {_against(winner, rivals[0])}"
            sentences.append(f"{text}). {_places(own, winner, subject)}".strip())
    return sentences


def _places(own: Sequence[Entry], winner: Entry, subject: str) -> str:
    """Where the subject's submissions stand that do not win."""
    behind = [entry for entry in own if entry.submission.startswith(subject)]
    return " ".join(
        f"{entry.submission} {_behind(entry, winner)}." for entry in behind if entry is not winner
    )


def _behind(entry: Entry, winner: Entry) -> str:
    studies = len(entry.studies)
    if math.isinf(entry.time(STEPS)):
        return f"loses: it misses the target in {studies - entry.reached} of {studies} studies"
    if entry.time(STEPS) == winner.time(STEPS):
        return "ties with it"
    text = f"loses to it: {_factor(entry, winner, STEPS)} its steps"
    if summary.one_clock([entry, winner]):
        text += f", {_factor(entry, winner, SECONDS)} its seconds"
    return text


def _factor(entry: Entry, other: Entry, measure: str) -> str:
    value = bootstrap.ratio(entry.time(measure), other.time(measure))
    spread_ = bootstrap.ratio_interval(entry.times(measure), other.times(measure))
    return f"{number(value)} times ({_interval(spread_, '{:.2g}')})"


def _against(winner: Entry, rival: Entry) -> str:
    if math.isinf(rival.time(STEPS)):
        return "no other submission reaches the target in most studies"
    return (
        f"{rival.submission} {rival.time(STEPS):.0f}, ratio "
        f"{_interval(bootstrap.ratio_interval(winner.times(STEPS), rival.times(STEPS)), '{:.2g}')}"
    )


def _same_kind(entry: Entry, other: Entry, subject: str) -> bool:
    return entry.submission.startswith(subject) and other.submission.startswith(subject)


def failures(records: Sequence[Record]) -> Table:
    """Return the failed trials and their reasons, each reason once per submission and workload."""
    counts: dict[tuple[str, str, str, str], int] = {}
    for record in records:
        if record.failed:
            spec = record.spec
            key = (spec.submission, spec.framework, spec.workload, record.reason or "")
            counts[key] = counts.get(key, 0) + 1
    rows = [
        (submission, framework_name(framework), workload, str(count), reason)
        for (submission, framework, workload, reason), count in counts.items()
    ]
    header = ("submission", "framework", "workload", "trials", "reason")
    return Table("Failed trials (they count as missing the target)", header, rows)


def spread(values: Sequence[float], form: str) -> str:
    """Return median and range, with a word for infinity."""
    text = _shown(median(values), form)
    if min(values) < max(values):
        text += f" ({_shown(min(values), form)}–{_shown(max(values), form)})"
    return text


def number(value: float) -> str:
    """Return a ratio, with words for what is no number."""
    if math.isnan(value):
        return "–"
    return MISSED if math.isinf(value) else f"{value:.2g}"


def _ratio(entry: Entry, base: Entry | None, measure: str) -> str:
    if base is None or entry is base:
        return "–"
    if math.isinf(base.time(measure)):
        return "–" if math.isinf(entry.time(measure)) else "it missed"
    value = bootstrap.ratio(entry.time(measure), base.time(measure))
    if math.isinf(value):
        return number(value)
    return f"{number(value)} ({_interval(_paired(entry, base, measure), '{:.2g}')})"


def _paired(entry: Entry, base: Entry, measure: str) -> Interval:
    return bootstrap.ratio_interval(entry.times(measure), base.times(measure))


def _interval(value: Interval, form: str) -> str:
    if math.isnan(value.low):
        return "–"
    return f"{_shown(value.low, form)}–{_shown(value.high, form)}"


def _shown(value: float, form: str) -> str:
    return MISSED if math.isinf(value) else form.format(value)


def _order(entry: Entry) -> tuple[float, float, float]:
    sign = 1.0 if entry.goal.get("minimise") else -1.0
    best = math.inf if math.isnan(entry.best) else sign * entry.best
    return entry.time(STEPS), entry.time(SECONDS), best


def _goal(own: Sequence[Entry]) -> str:
    goal = next((entry.goal for entry in own if entry.goal), None)
    if goal is None:
        return "no trial began"
    sign = "at most" if goal["minimise"] else "at least"
    return f"{goal['metric']} {sign} {goal['validation_target']:g}"
