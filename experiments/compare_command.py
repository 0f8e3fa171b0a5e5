"""The command line of ``scripts/compare.py``."""

import argparse
import sys
import time
from collections.abc import Sequence

from experiments import comparison, options, report, submissions
from experiments.errors import ExperimentError
from experiments.plan import Budget, make_plan
from workloads_extra.runner.errors import RunnerError

INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description="Train workloads with several submissions at equal tuning budgets and report who "
        "reaches the target when. Start it again to go on where it was stopped.",
    )
    add = parser.add_argument
    add(
        "--submissions",
        nargs="+",
        required=True,
        metavar="[LABEL:]NAME[=SPACE.json]",
        help=f"known: {', '.join(submissions.known())}; or a folder",
    )
    add("--workloads", nargs="+", required=True)
    options.add_framework_flag(parser)
    add("--studies", type=int, default=3)
    add("--trials", type=int, default=5, help="per study and submission; self-tuning has one")
    add("--seed", type=int, default=0, help="of the first study; the others follow")
    add(
        "--points",
        choices=("listed", "ranges"),
        default="ranges",
        help="draw points from tuning_search_spaces/ranges where it has the submission (default), or "
        "take the points listed beside the submission",
    )
    add("--out", type=options.folder, required=True, help="folder of this comparison")
    add("--retry-failed", action="store_true", help="run failed trials again")
    add("--reference", help="submission that the report compares with (default: the first)")
    options.add_trial_flags(parser)
    options.add_engine_flags(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the report.

    Args:
        arguments: of the command line by default.

    Returns:
        0; 1 if trials failed; 2 for an error that the caller can set right; 130 if interrupted.
    """
    chosen = make_parser().parse_args(arguments)
    started = time.monotonic()
    try:
        specs = make_plan(
            submissions.find(chosen.submissions, chosen.frameworks, chosen.points),
            chosen.workloads,
            Budget(studies=chosen.studies, trials=chosen.trials, seed=chosen.seed),
            options.limits(chosen),
            save_checkpoints=chosen.checkpoints,
            processes=chosen.processes_per_trial,
        )
        report.check_reference((spec.submission for spec in specs), chosen.reference)
        with comparison.claim(chosen.out) as lock:
            engine = options.make_engine(chosen, lock)
            found = comparison.complete(
                specs, chosen.out, engine, retry_failed=chosen.retry_failed, stream=sys.stderr
            )
        print(report.write(found, chosen.out, reference=chosen.reference))
    except (ExperimentError, RunnerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start again to go on", file=sys.stderr)
        return INTERRUPTED
    failed = [record for record in found if record.failed]
    print(f"{len(found)} trials, {len(failed)} failed, {time.monotonic() - started:.0f} s")
    for record in failed[:10]:
        print(f"failed: {record.spec.title}: {record.reason}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
