"""Compare LLQR with tuned NadamW on Rosenbrock and digits, in torch and in JAX: ``make demo``.

This is ``scripts/compare.py`` at a small size; its flags can be given to change or extend it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.compare_command import main
from experiments.submissions import ROOT

SMALL = [
    *("--submissions", "nadamw", "llqr", "self_tuning/llqr"),
    *("--workloads", "rosenbrock", "digits"),
    *("--studies", "3", "--trials", "2"),
    # The limits of the workloads are for a free machine; steps end the trials here, also on a very busy one.
    *("--time-budget", "100"),
    *("--out", str(ROOT / "results" / "demo")),
]

if __name__ == "__main__":
    sys.exit(main([*SMALL, *sys.argv[1:]]))
