"""Find good hyperparameters for a submission within a fixed budget; see ``--help`` and README.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.search_command import main

if __name__ == "__main__":
    sys.exit(main())
