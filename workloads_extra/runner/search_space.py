"""Hyperparameters of a trial: points of a search space in AlgoPerf's JSON format.

A space is a list of points, ``[{"learning_rate": 1e-3}, …]``, or an object that gives each field a range,
``{"min": a, "max": b, "scaling": "log" | "linear"}``, or a choice, ``{"feasible_points": […]}``. Ranges are
sampled with a shifted Halton sequence, the same for the same seed.
"""

import collections
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workloads_extra.runner.errors import RunnerError

SKIPPED_POINTS = 20
"""The first points of a Halton sequence in several bases are correlated."""


class MissingHyperparameterError(AttributeError):
    """A submission asked for a field that the search space does not have."""


def make_hyperparameters(values: dict[str, Any], source: str) -> Any:
    """Return a named tuple of hyperparameters.

    Args:
        values: by field.
        source: where they come from, for the message about a missing field.

    Returns:
        A named tuple with the fields of `values`.
    """
    fields = collections.namedtuple("Hyperparameters", list(values))

    class Hyperparameters(fields):
        """Fields of a search space; a missing one is explained."""

        __slots__ = ()

        def __getattr__(self, name: str) -> Any:
            raise MissingHyperparameterError(
                f"the submission asks for the hyperparameter {name!r}, which {source} does not have; "
                f"it has {', '.join(self._fields)}. Add the field to the search space"
            )

    return Hyperparameters(**values)


def load_trials(path: str | None, num_trials: int, seed: int) -> list[Any]:
    """Return the hyperparameters of every trial.

    Args:
        path: of the JSON file.
        num_trials: how many to draw, ≥ 1; a list of points gives at most as many as it has.
        seed: of the shift of the Halton sequence.

    Returns:
        Named tuples.

    Raises:
        RunnerError: for a missing or malformed file.
    """
    if path is None:
        raise RunnerError("--tuning_search_space is required with --tuning_ruleset=external")
    if num_trials < 1:
        raise RunnerError(f"--num_tuning_trials must be at least 1, got {num_trials}")
    space = _read(path)
    points = (
        space[:num_trials] if isinstance(space, list) else _sample(space, num_trials, seed, path)
    )
    return [make_hyperparameters(point, path) for point in points]


def _read(path: str) -> Any:
    """Parse the file and check its outer form."""
    try:
        space = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunnerError(f"--tuning_search_space={path} does not exist") from None
    except json.JSONDecodeError as error:
        raise RunnerError(f"--tuning_search_space={path} is not valid JSON: {error}") from error
    points = space if isinstance(space, list) else [space]
    if not points or not all(isinstance(point, dict) and point for point in points):
        raise RunnerError(f"{path} must hold a non-empty object, or a list of such objects")
    for index, point in enumerate(points):
        if point.keys() != points[0].keys():
            odd = sorted(point.keys() ^ points[0].keys())
            raise RunnerError(f"{path}: point {index} and point 0 differ in the fields {odd}")
    return space


def _sample(space: dict[str, Any], num_trials: int, seed: int, path: str) -> list[dict[str, Any]]:
    """Draw points of the ranges and choices."""
    coordinates = halton(num_trials, len(space), seed)
    return [
        {
            name: _scale(name, field, coordinate, path)
            for (name, field), coordinate in zip(space.items(), row, strict=True)
        }
        for row in coordinates
    ]


def halton(points: int, dimensions: int, seed: int) -> np.ndarray:
    """Return points of a shifted Halton sequence.

    Args:
        points: how many.
        dimensions: of each; dimension d uses the d-th prime as its base.
        seed: of the shift.

    Returns:
        [points, dimensions] in [0, 1).
    """
    shift = np.random.default_rng(seed).uniform(size=dimensions)
    indices = range(SKIPPED_POINTS, SKIPPED_POINTS + points)
    sequence = [
        [_radical_inverse(index, base) for base in _primes(dimensions)] for index in indices
    ]
    return (np.array(sequence).reshape(points, dimensions) + shift) % 1.0


def _radical_inverse(index: int, base: int) -> float:
    """Digits of the index in a base, mirrored behind the point."""
    value, weight = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        weight /= base
        value += digit * weight
    return value


def _primes(count: int) -> list[int]:
    """The first primes."""
    primes: list[int] = []
    candidate = 2
    while len(primes) < count:
        if all(candidate % prime for prime in primes):
            primes.append(candidate)
        candidate += 1
    return primes


def _scale(name: str, field: Any, coordinate: float, path: str) -> Any:
    """Map a coordinate in [0, 1) to the field's range or choice."""
    if isinstance(field, dict) and field.get("feasible_points"):
        choices: Sequence[Any] = field["feasible_points"]
        return choices[int(coordinate * len(choices))]
    missing = [
        key for key in ("min", "max", "scaling") if not isinstance(field, dict) or key not in field
    ]
    if missing:
        raise RunnerError(
            f"{path}: field {name!r} needs min, max and scaling, or feasible_points; it lacks {missing}"
        )
    low, high, scaling = field["min"], field["max"], field["scaling"]
    if scaling == "linear":
        return low + coordinate * (high - low)
    if scaling != "log" or low <= 0:
        raise RunnerError(
            f"{path}: field {name!r} needs scaling linear, or log with min > 0; got {field}"
        )
    return low * math.exp(coordinate * math.log(high / low))
