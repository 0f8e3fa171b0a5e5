"""Check this library against a file of golden values of the published implementation.

    python scripts/check_golden.py tests/data/mlp.npz --backend torch

Prints the largest relative error of every entry, max|ours − golden| / max|golden|, and exits with 1 if one
is above the limit (1e-9 unless told otherwise), with 2 if the file cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from golden.file import GoldenFile, GoldenFileError
from golden.recompute import recompute

LIMIT = 1e-9


def load_problem(backend: str) -> Callable:
    """Return the framework's problem builder.

    Raises:
        ImportError: if the framework is not installed; the message says how to install it.
    """
    if backend == "torch":
        from golden.torch_problem import make_problem
    else:
        from golden.jax_problem import make_problem
    return make_problem


def relative_error(ours: np.ndarray, golden: np.ndarray) -> float:
    """Return max|ours − golden| / max|golden|; infinite for another shape or non-finite numbers."""
    if ours.shape != golden.shape or not np.isfinite(ours).all():
        return float("inf")
    if golden.size == 0:
        return 0.0
    scale = np.abs(golden).max()
    return float(np.abs(ours - golden).max() / (scale if scale > 0 else 1.0))


def errors(golden: GoldenFile, backend: str) -> Iterator[tuple[str, float]]:
    """Yield (entry, relative error) for every entry of the file that is a result."""
    problem = load_problem(backend)(golden)
    for entry, ours in recompute(golden, problem):
        yield entry, relative_error(np.asarray(ours), golden.results[entry])


def main(arguments: list[str] | None = None) -> int:
    """Run the check; see the module docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="golden values (.npz)")
    parser.add_argument("--backend", choices=("torch", "jax"), required=True)
    parser.add_argument("--limit", type=float, default=LIMIT, help="largest relative error allowed")
    options = parser.parse_args(arguments)
    try:
        golden = GoldenFile.read(options.file)
    except GoldenFileError as error:
        print(f"check_golden: {error}", file=sys.stderr)
        return 2
    worst, seen = ("", -1.0), set()
    for entry, error in errors(golden, options.backend):
        seen.add(entry)
        print(f"{error:9.2e}  {entry}{'' if error <= options.limit else '   ABOVE LIMIT'}")
        worst = max(worst, (entry, error), key=lambda pair: pair[1])
    missing = sorted(set(golden.results) - seen)
    for entry in missing:
        print(f"not checked  {entry}   UNKNOWN ENTRY")
    passed = bool(seen) and not missing and worst[1] <= options.limit
    print(
        f"{'PASS' if passed else 'FAIL'}: {len(seen)} entries, largest relative error {worst[1]:.2e} "
        f"({worst[0]}), limit {options.limit:g}, backend {options.backend}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
