"""The bridge to an installed AlgoPerf: extra workloads in its registry, its runner and its scoring.

AlgoPerf imports a workload as ``algoperf.workloads.<path>``. Adding this package's directory to that
package's search path makes the extra workloads importable there, without a copy.
"""

import argparse
import copy
import importlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from workloads_extra import registry
from workloads_extra.runner.errors import RunnerError
from workloads_extra.spec import ALGOPERF_INSTALLED

_HERE = str(Path(__file__).parent)


def knows(workload: str) -> bool:
    """Return whether a workload is one of an installed AlgoPerf's own."""
    if not ALGOPERF_INSTALLED or workload in registry.WORKLOADS:
        return False
    from algoperf.workloads import workloads

    return workload in workloads.WORKLOADS


def absent_note() -> str:
    """Return what to add to a message about an unknown workload."""
    if ALGOPERF_INSTALLED:
        return ". AlgoPerf's own workloads are known too, but none has this name"
    return ". AlgoPerf's own workloads need AlgoPerf, which is not installed here"


def register() -> None:
    """Add the extra workloads to AlgoPerf's registry, once.

    Raises:
        RunnerError: without AlgoPerf.
    """
    if not ALGOPERF_INSTALLED:
        raise RunnerError("AlgoPerf is not installed; install version 0.6 from its repository")
    import algoperf.workloads
    from algoperf.workloads import workloads

    if _HERE not in algoperf.workloads.__path__:
        algoperf.workloads.__path__.append(_HERE)
    workloads.WORKLOADS.update(copy.deepcopy(registry.WORKLOADS))


def source_directory() -> Path:
    """Return the directory of AlgoPerf's repository, which holds its runner and scoring scripts.

    Raises:
        RunnerError: if AlgoPerf was installed without them.
    """
    import algoperf

    directory = Path(algoperf.__file__).resolve().parents[1]
    if not (directory / "submission_runner.py").is_file():
        raise RunnerError(
            f"{directory} has no submission_runner.py; install AlgoPerf from a clone of its repository "
            "with pip install --editable"
        )
    return directory


def run(arguments: Sequence[str]) -> int:
    """Run AlgoPerf's ``submission_runner.py`` with the extra workloads registered.

    Args:
        arguments: its flags.

    Returns:
        Its exit status.
    """
    register()
    # Submissions are imported from the working directory first.
    sys.path.append(str(source_directory()))
    return _run_script(source_directory() / "submission_runner.py", arguments)


def score(arguments: Sequence[str]) -> int:
    """Run AlgoPerf's ``scoring/score_submissions.py`` with the extra workloads registered.

    The script averages over AlgoPerf's eight workloads. Where all results are of extra workloads, these take
    their place.

    Args:
        arguments: its flags.

    Returns:
        Its exit status.
    """
    register()
    script = source_directory() / "scoring" / "score_submissions.py"
    sys.path[:0] = [str(script.parent), str(source_directory())]
    found = _scored_workloads(arguments)
    if found and found <= registry.WORKLOADS.keys():
        from algoperf.workloads import workloads

        workloads.BASE_WORKLOADS[:] = sorted(found)
        profile = importlib.import_module("performance_profile")
        profile.NUM_BASE_WORKLOADS = len(found)
    return _run_script(script, arguments)


def _scored_workloads(arguments: Sequence[str]) -> set[str]:
    """Workloads below ``--submission_directory``, from <submission>/<study>/<workload>_<framework>."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--submission_directory", default="")
    directory = Path(parser.parse_known_args(list(arguments))[0].submission_directory)
    return {path.name.rpartition("_")[0] for path in directory.glob("*/*/*_*") if path.is_dir()}


def _run_script(script: Path, arguments: Sequence[str]) -> int:
    """Run a script as its own main program, with its imports working from any directory."""
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
