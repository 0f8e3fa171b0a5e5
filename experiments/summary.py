"""Records put in order: for each framework and workload, what every submission came to."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from experiments import bootstrap, scoring
from experiments.bootstrap import Interval
from experiments.records import Record

STEPS, SECONDS = "steps", "seconds"
MEASURES = (STEPS, SECONDS)


@dataclass(frozen=True)
class Entry:
    """One submission on one workload in one framework.

    Attributes:
        submission: label.
        framework: ``jax`` or ``pytorch``.
        workload: key of the registry.
        studies: records by study.
    """

    submission: str
    framework: str
    workload: str
    studies: tuple[tuple[Record, ...], ...]

    @property
    def records(self) -> list[Record]:
        """Records of all studies."""
        return [record for study in self.studies for record in study]

    def times(self, measure: str) -> list[float]:
        """Return the least time to target of every study."""
        return scoring.study_times(
            [[_time(record, measure) for record in study] for study in self.studies]
        )

    def time(self, measure: str) -> float:
        """Return the median of the studies' times."""
        return median(self.times(measure))

    @property
    def reached(self) -> int:
        """Studies in which a trial reached the target."""
        return sum(math.isfinite(value) for value in self.times(STEPS))

    def ranked(self) -> list[Record]:
        """Return the finished trials, best first: by steps to target, then by best metric."""
        sign = 1.0 if self.goal.get("minimise") else -1.0

        def rank(record: Record) -> tuple[float, float]:
            unknown = math.isnan(record.best)
            return record.steps_to_target, math.inf if unknown else sign * record.best

        return sorted((record for record in self.records if not record.failed), key=rank)

    @property
    def goal(self) -> dict:
        """Metric and target, from any trial that knows them."""
        return next((record.goal for record in self.records if record.goal), {})

    @property
    def best(self) -> float:
        """Best validation metric of all trials, NaN without any."""
        values = [record.best for record in self.records if not math.isnan(record.best)]
        better = min if self.goal.get("minimise") else max
        return better(values, default=math.nan)


def _time(record: Record, measure: str) -> float:
    return record.steps_to_target if measure == STEPS else record.seconds_to_target


def one_clock(found: Iterable[Entry]) -> bool:
    """Return whether all seconds were counted by one clock, so that they can be compared."""
    return len({record.spec.clock for entry in found for record in entry.records}) <= 1


def entries(records: Iterable[Record]) -> list[Entry]:
    """Group records, in the order in which submissions and workloads first come up."""
    groups: dict[tuple[str, str, str], dict[int, list[Record]]] = {}
    for record in records:
        spec = record.spec
        key = (spec.framework, spec.workload, spec.submission)
        groups.setdefault(key, {}).setdefault(spec.study, []).append(record)
    return [
        Entry(
            submission=submission,
            framework=framework,
            workload=workload,
            studies=tuple(tuple(studies[number]) for number in sorted(studies)),
        )
        for (framework, workload, submission), studies in groups.items()
    ]


@dataclass(frozen=True)
class Standing:
    """A submission's score in one framework.

    Attributes:
        submission: label.
        score: by measure, in [0, 1].
        interval: of it, by measure.
        workloads_reached: with a finite median time.
    """

    submission: str
    score: dict[str, float]
    interval: dict[str, Interval]
    workloads_reached: int


def standings(found: Sequence[Entry]) -> list[Standing]:
    """Return the scores of one framework's entries, best first by steps.

    Args:
        found: entries of one framework.

    Returns:
        One standing per submission.
    """
    submissions = list(dict.fromkeys(entry.submission for entry in found))
    score, spread = {}, {}
    for measure in MEASURES:
        medians = {name: {} for name in submissions}
        studies = {name: {} for name in submissions}
        for entry in found:
            medians[entry.submission][entry.workload] = entry.time(measure)
            studies[entry.submission][entry.workload] = entry.times(measure)
        score[measure] = scoring.scores(medians)
        spread[measure] = bootstrap.score_intervals(studies)
    result = [
        Standing(
            name,
            {measure: score[measure][name] for measure in MEASURES},
            {measure: spread[measure][name] for measure in MEASURES},
            sum(math.isfinite(entry.time(STEPS)) for entry in found if entry.submission == name),
        )
        for name in submissions
    ]
    return sorted(result, key=lambda each: -each.score[STEPS])


def frameworks(found: Sequence[Entry]) -> list[str]:
    """Return the frameworks in order."""
    return list(dict.fromkeys(entry.framework for entry in found))


def workloads(found: Sequence[Entry]) -> list[str]:
    """Return the workloads in order."""
    return list(dict.fromkeys(entry.workload for entry in found))


def select(
    found: Sequence[Entry], framework: str | None = None, workload: str | None = None
) -> list[Entry]:
    """Return the entries of a framework and a workload, where stated."""
    return [
        entry
        for entry in found
        if framework in (None, entry.framework) and workload in (None, entry.workload)
    ]
