"""Checks of settings and arrays, each with one message: argument, rule, value received, remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Return whether ``value`` is a real number, Python's or NumPy's, but no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_positive_int(name: str, value: object) -> None:
    """Raise unless ``value`` is an integer ≥ 1.

    Raises:
        ValueError: with the argument's name, the rule, the value and the remedy.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(
            f"{name} must be an integer of at least 1, got {value!r}; pass e.g. {name}=1"
        )


def check_positive(name: str, value: object, example: float = 1.0) -> None:
    """Raise unless ``value`` is a finite number > 0.

    Raises:
        ValueError: with the argument's name, the rule, the value and the remedy.
    """
    if not (is_number(value) and 0.0 < value < math.inf):
        raise ValueError(
            f"{name} must be a finite number above 0, got {value!r}; pass e.g. {name}={example!r}"
        )


def check_not_negative(name: str, value: object, example: float = 0.0) -> None:
    """Raise unless ``value`` is a finite number ≥ 0.

    Raises:
        ValueError: with the argument's name, the rule, the value and the remedy.
    """
    if not (is_number(value) and 0.0 <= value < math.inf):
        raise ValueError(
            f"{name} must be a finite number of at least 0, got {value!r}; "
            f"pass e.g. {name}={example!r}"
        )


def check_at_least_one(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number ≥ 1.

    Raises:
        ValueError: with the argument's name, the rule, the value and the remedy.
    """
    if not (is_number(value) and 1.0 <= value < math.inf):
        raise ValueError(
            f"{name} must be a finite number of at least 1, got {value!r}; pass e.g. {name}=1.5"
        )


def check_fraction(name: str, value: object, example: float) -> None:
    """Raise unless ``value`` is a number in [0, 1).

    Raises:
        ValueError: with the argument's name, the rule, the value and the remedy.
    """
    if not (is_number(value) and 0.0 <= value < 1.0):
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}; pass e.g. {name}={example!r}")


def check_arrays(
    argument: str, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise unless ``values`` holds an array of the right shape under every name.

    Raises:
        ValueError: with the argument's name, the rule, the value and the remedy.
    """
    for name, shape in shapes.items():
        if name not in values:
            raise ValueError(
                f"{argument} must hold every parameter the preconditioner was built for, got "
                f"none named {name!r}; pass zeros for a parameter without gradient"
            )
        if tuple(values[name].shape) != shape:
            raise ValueError(
                f"{argument}[{name!r}] must have shape {shape}, got "
                f"{tuple(values[name].shape)}; build the preconditioner from these parameters"
            )
