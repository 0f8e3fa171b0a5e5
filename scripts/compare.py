"""Compare submissions on workloads at equal tuning budgets; see ``--help`` and README.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.compare_command import main

if __name__ == "__main__":
    sys.exit(main())
