"""Loading a submission: the functions of a Python file."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from workloads_extra import registry
from workloads_extra.runner.errors import RunnerError

REQUIRED = ("init_optimizer_state", "update_params", "data_selection", "get_batch_size")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """The functions of a submission, as AlgoPerf's API has them.

    Attributes:
        init_optimizer_state: makes the optimizer's state.
        update_params: does one step.
        data_selection: draws a batch from the queue.
        get_batch_size: global batch size of a workload.
        prepare_for_eval: turns parameters into those to evaluate, or None.
        get_eval_batch_size: global evaluation batch size of a workload, or None.
    """

    init_optimizer_state: Callable[..., Any]
    update_params: Callable[..., Any]
    data_selection: Callable[..., Any]
    get_batch_size: Callable[[str], int]
    prepare_for_eval: Callable[..., Any] | None = None
    get_eval_batch_size: Callable[[str], int] | None = None


def load_submission(path: str) -> Submission:
    """Import a submission.

    Args:
        path: of ``submission.py``. Below the working directory it is imported by its dotted name, as
            AlgoPerf does, else from the file.

    Returns:
        Its functions.

    Raises:
        RunnerError: if the file or a required function is missing.
    """
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise RunnerError(f"--submission_path={path} must name an existing Python file")
    module = _import(file)
    missing = [name for name in REQUIRED if not hasattr(module, name)]
    if missing:
        raise RunnerError(f"--submission_path={path} does not define {', '.join(missing)}")
    optional = {
        name: getattr(module, name, None) for name in ("prepare_for_eval", "get_eval_batch_size")
    }
    return Submission(**{name: getattr(module, name) for name in REQUIRED}, **optional)


def batch_sizes(
    submission: Submission, workload_name: str, workload: Any, devices: int
) -> tuple[int, int]:
    """Ask a submission for its batch sizes and check them.

    Args:
        submission: to ask; a variant it does not know gets the size of its base workload.
        workload_name: key of the registry.
        workload: gives the evaluation batch size where the submission has none.
        devices: that share a batch.

    Returns:
        Global batch sizes for training and evaluation.

    Raises:
        RunnerError: if the submission knows no size, or one is not a multiple of the devices.
    """
    try:
        size = submission.get_batch_size(workload_name)
    except ValueError as error:
        base = registry.base_name(workload_name)
        if base == workload_name:
            raise RunnerError(
                f"the submission has no batch size for {workload_name}: {error}"
            ) from error
        size = submission.get_batch_size(base)
    if submission.get_eval_batch_size is None:
        eval_size = workload.eval_batch_size
    else:
        eval_size = submission.get_eval_batch_size(workload_name)
    for kind, value in (("batch size", size), ("evaluation batch size", eval_size)):
        if value < 1 or value % devices:
            raise RunnerError(
                f"the global {kind} must be a positive multiple of the {devices} devices, got {value}; "
                "change it in the submission or run on another number of devices"
            )
    return size, eval_size


def _import(file: Path) -> ModuleType:
    """Import by dotted name where that is possible."""
    resolved, here = file.resolve(), Path.cwd()
    if resolved.is_relative_to(here):
        parts = resolved.relative_to(here).with_suffix("").parts
        if all(part.isidentifier() for part in parts):
            if str(here) not in sys.path:
                sys.path.insert(0, str(here))
            return importlib.import_module(".".join(parts))
    name = f"submission_{abs(hash(resolved))}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
