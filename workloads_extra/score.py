"""Score results with AlgoPerf's own code: ``python -m workloads_extra.score``.

Takes the flags of AlgoPerf's ``scoring/score_submissions.py`` and registers the extra workloads first, so
that their targets are known to it. Needs AlgoPerf 0.6.
"""

import sys

from workloads_extra import official
from workloads_extra.runner.errors import RunnerError


def main() -> int:
    """Score what the command line names.

    Returns:
        Exit status: 0, or 2 for an error that the caller can set right.
    """
    try:
        return official.score(sys.argv[1:])
    except RunnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
