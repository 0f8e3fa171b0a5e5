"""The extra workloads by name, in AlgoPerf's form of a registry."""

import difflib
import importlib
from typing import Any

from workloads_extra.spec import Workload

FRAMEWORKS = ("jax", "pytorch")

_CLASSES = {
    "rosenbrock": {
        "rosenbrock": "RosenbrockWorkload",
        "rosenbrock_two_layers": "RosenbrockTwoLayersWorkload",
        "rosenbrock_ackley": "AckleyWorkload",
        "rosenbrock_goldstein_price": "GoldsteinPriceWorkload",
    },
    "digits": {"digits": "DigitsWorkload"},
    "digits_autoencoder": {"digits_autoencoder": "DigitsAutoencoderWorkload"},
    "digits_conv": {"digits_conv": "DigitsConvWorkload"},
    "char_lm": {"char_lm": "CharLmWorkload"},
    "grokking": {
        "grokking": "GrokkingWorkload",
        "grokking_difference": "GrokkingDifferenceWorkload",
        "grokking_product": "GrokkingProductWorkload",
        "grokking_quotient": "GrokkingQuotientWorkload",
        "grokking_power": "GrokkingPowerWorkload",
        "grokking_composition": "GrokkingCompositionWorkload",
        "grokking_mini": "GrokkingMiniWorkload",
    },
}

WORKLOADS: dict[str, dict[str, str]] = {
    name: {"workload_path": f"{base}/{base}", "workload_class_name": class_name}
    for base, classes in _CLASSES.items()
    for name, class_name in classes.items()
}
"""Path below this package, without ``_<framework>``, and class of every workload."""


def base_name(name: str) -> str:
    """Return the workload of which this one is a variant, or the name itself.

    Args:
        name: a workload of this registry.

    Returns:
        The name of its folder.
    """
    return WORKLOADS[name]["workload_path"].split("/")[0]


def check_framework(framework: str) -> None:
    """Refuse unknown frameworks.

    Raises:
        ValueError: for anything but ``jax`` and ``pytorch``.
    """
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}, got {framework!r}")


def workload_class(name: str, framework: str) -> type[Workload]:
    """Import the class of a workload; only its own framework is imported.

    Args:
        name: key of `WORKLOADS`.
        framework: ``jax`` or ``pytorch``.

    Returns:
        The class.

    Raises:
        ValueError: for an unknown name or framework.
    """
    check_framework(framework)
    if name not in WORKLOADS:
        raise ValueError(unknown_workload(name))
    entry = WORKLOADS[name]
    path = f"workloads_extra.{entry['workload_path'].replace('/', '.')}_{framework}.workload"
    return getattr(importlib.import_module(path), entry["workload_class_name"])


def make_workload(name: str, framework: str, **kwargs: Any) -> Workload:
    """Return a new workload; arguments as for `workload_class`."""
    return workload_class(name, framework)(**kwargs)


def unknown_workload(name: str) -> str:
    """Return the message that lists the known workloads."""
    close = difflib.get_close_matches(name, WORKLOADS, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"workload must be one of {', '.join(WORKLOADS)}, got {name!r}{hint}"
