"""Peak resident memory of this process (Linux and macOS)."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_growth(run: Callable[[], object]) -> int:
    """Return by how many bytes ``run`` raises the process's peak memory."""
    before = _peak_bytes()
    run()
    return _peak_bytes() - before
