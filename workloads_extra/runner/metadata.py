"""What is recorded beside the measurements of a trial."""

import functools
import importlib.metadata
import os
import platform
from typing import Any

_PACKAGES = (
    "llqr",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "torch",
    "numpy",
    "algoperf",
    "schedulefree",
    "prodigyopt",
    "pytorch_optimizer",
)
_SKIPPED = ("param_shapes", "model_params_types")


def meta_data(workload: Any, rng_seed: int) -> dict[str, Any]:
    """Return the workload's properties, versions, and the machine.

    Args:
        workload: initialised.
        rng_seed: of the trial.

    Returns:
        Values that JSON can hold.
    """
    names = [name for name in dir(workload) if not name.startswith("_") and name not in _SKIPPED]
    values = {f"workload.{name}": getattr(workload, name) for name in names}
    properties = {
        name: value for name, value in values.items() if isinstance(value, str | bool | int | float)
    }
    machine = {
        "os_platform": platform.platform(),
        "python_version": platform.python_version(),
        "cpu_count": os.cpu_count(),
    }
    return {**properties, **machine, **versions(), "rng_seed": rng_seed}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of what is installed, as ``version.<package>``."""
    found = {}
    for package in _PACKAGES:
        try:
            found[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
