"""Write the report of comparisons that ``scripts/compare.py`` made; see ``--help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.report_command import main

if __name__ == "__main__":
    sys.exit(main())
