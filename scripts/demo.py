"""Train on digits and Rosenbrock with and without LLQR, in torch and in JAX, and report: ``make demo``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.demo_job.command import main

if __name__ == "__main__":
    sys.exit(main())
