"""The command line of ``scripts/search.py``."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from experiments import comparison, options, points, search, submissions
from experiments.compare_command import INTERRUPTED
from experiments.errors import ExperimentError
from experiments.plan import Budget, TrialSpec, make_plan
from experiments.search import Listed, Proposer, Tried
from experiments.submissions import ROOT, Submission
from workloads_extra.runner.errors import RunnerError
from workloads_extra.runner.storage import write_json

HALTON = "halton"
SAMPLERS = (HALTON, "tpe", "gp", "qmc", "random")
PRUNERS = ("none", "median", "halving")
UNLIMITED = 10_000
"""Points, where the budget is in seconds."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="search.py",
        description="Find good hyperparameters for a submission on some workloads within a fixed budget, "
        "and write the five points to hand in. Start it again to go on where it was stopped.",
    )
    add = parser.add_argument
    add("--submission", required=True, metavar="NAME[=RANGES.json]")
    add("--workloads", nargs="+", required=True)
    add("--framework", choices=submissions.FRAMEWORKS, required=True)
    add("--points", type=int, help="to try (default 20, or no limit with --seconds)")
    add("--seconds", type=float, default=math.inf, help="after which no point is begun")
    add("--measure", choices=("steps", "seconds"), default="steps", help="what makes a point good")
    add(
        "--sampler",
        choices=SAMPLERS,
        default=HALTON,
        help="halton: AlgoPerf's quasi-random points (default); the others are Optuna's",
    )
    add("--pruner", choices=PRUNERS, default="none", help="Optuna's, after each workload")
    add("--storage", help="Optuna's URL of a database (default: a journal in OUT)")
    add("--seed", type=int, default=0)
    add("--out", type=options.folder, required=True, help="folder of this search")
    add("--write-space", type=options.folder, help="default: OUT/tuning_search_space.json")
    options.add_trial_flags(parser)
    options.add_engine_flags(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Search and write the five points.

    Args:
        arguments: of the command line by default.

    Returns:
        0; 2 for an error that the caller can set right; 130 if interrupted.
    """
    chosen = make_parser().parse_args(arguments)
    try:
        tried = _search(chosen)
        best = search.choose(tried, chosen.workloads)
    except (ExperimentError, RunnerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start again to go on", file=sys.stderr)
        return INTERRUPTED
    path = chosen.write_space or chosen.out / "tuning_search_space.json"
    search.write_space(best, path)
    write_json(chosen.out / "tried.json", [each._asdict() for each in tried])
    print(*_lines(tried, best, chosen.workloads), f"written: {path}", sep="\n")
    return 0


def _search(chosen: Any) -> list[Tried]:
    (submission,) = submissions.find([chosen.submission], [chosen.framework], "ranges")
    if submission.space is None:
        raise ExperimentError(f"{submission.name} is self-tuning: there is nothing to search")
    most = chosen.points or (20 if math.isinf(chosen.seconds) else UNLIMITED)
    proposer = _proposer(chosen, submission, most)
    templates = _templates(chosen, submission)
    with comparison.claim(chosen.out) as lock:
        engine = options.make_engine(chosen, lock)

        def run(specs: Sequence[TrialSpec]) -> Any:
            return comparison.complete(specs, chosen.out, engine)

        return search.search(
            templates,
            proposer,
            run,
            points=most,
            seconds=chosen.seconds,
            at_a_time=engine.workers,
            measure=chosen.measure,
        )


def _proposer(chosen: Any, submission: Submission, most: int) -> Proposer:
    if chosen.sampler == HALTON:
        if chosen.pruner != "none":
            raise ExperimentError("--pruner needs one of Optuna's samplers")
        return Listed(points.of_study(submission.space, most, chosen.seed))
    from experiments.optuna_proposer import OptunaProposer

    return OptunaProposer(
        ROOT / submission.space,
        chosen.out,
        storage=chosen.storage,
        sampler=chosen.sampler,
        pruner=chosen.pruner,
        seed=chosen.seed,
    )


def _templates(chosen: Any, submission: Submission) -> list[TrialSpec]:
    """One trial per workload; points and numbers are put in later."""
    budget = Budget(studies=1, trials=1, seed=chosen.seed)
    return make_plan([submission], chosen.workloads, budget, options.limits(chosen))


def _lines(tried: Sequence[Tried], best: Sequence[Tried], workloads: Sequence[str]) -> list[str]:
    """What was found, for a terminal."""
    ranked = sorted(tried, key=lambda each: each.mean(workloads))
    lines = [f"{len(tried)} points tried; least mean cost {ranked[0].mean(workloads):.3f}"]
    for each in best:
        costs = ", ".join(f"{name} {each.costs.get(name, math.nan):.3f}" for name in workloads)
        lines.append(f"{costs}: {each.point}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
