"""Run a submission on a workload by AlgoPerf's protocol: ``python -m workloads_extra.run``.

Takes the flags of AlgoPerf's ``submission_runner.py``. The extra workloads run here; official workloads, and
everything with ``--official_runner``, are handed over to AlgoPerf's own runner, where the extra workloads are
registered.
"""

import os
import sys
from collections.abc import Sequence

from workloads_extra import official
from workloads_extra.runner.errors import RunnerError
from workloads_extra.runner.experiment import Experiment
from workloads_extra.runner.options import parse, without_own_flags
from workloads_extra.runner.results import TrialResult
from workloads_extra.runner.search_space import MissingHyperparameterError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and print one line per trial.

    Args:
        arguments: flags; those of the command line by default.

    Returns:
        Exit status: 0, or 2 for an error that the caller can set right.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(arguments)
    try:
        if options.official_runner or official.knows(options.workload):
            return official.run(without_own_flags(arguments))
        experiment = Experiment(options)
        results = experiment.run()
        if experiment.is_main:
            print(*(_line(options, result) for result in results), sep="\n")
    except (RunnerError, MissingHyperparameterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _line(options: object, result: TrialResult) -> str:
    """Summary of a trial."""
    reached = (
        f"target after {result.time_to_target:.2f} s and {result.steps_to_target} steps"
        if result.time_to_target is not None
        else "target not reached"
    )
    return (
        f"{options.workload} {options.framework} trial {result.trial}: {reached}; "
        f"best {result.best_validation}; stopped by {result.stopped_by} after "
        f"{result.submission_time:.2f} s and {result.global_step} steps"
    )


def leave(status: int) -> None:
    """End the process.

    Under torchrun without running destructors: gloo's threads, torn down while the other process still
    closes its end, abort the interpreter now and then after all work is done and written.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    leave(main())
