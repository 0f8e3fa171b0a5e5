"""Write the best trials of a comparison as search spaces of one point; see ``--help``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.best_points import main

if __name__ == "__main__":
    sys.exit(main())
