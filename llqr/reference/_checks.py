"""Argument checks shared by the numpy oracles."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def float64_array(argument: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Convert to a finite float64 array of the given shape.

    Args:
        argument: Name used in the error.
        value: Anything `numpy.asarray` takes.
        shape: Shape wanted.

    Returns:
        The array, not copied if it already is float64.

    Raises:
        ValueError: If the shape differs or an entry is NaN or Inf.
    """
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(
            f"{argument} must have shape {shape}, got {array.shape}; "
            "check the order of the axes and which layer it belongs to"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"{argument} must be finite, got {int((~np.isfinite(array)).sum())} entries that are "
            "NaN or Inf; check the loss and the parameters before building the problem"
        )
    return array


def check_symmetric(argument: str, matrix: Array) -> None:
    """Refuse a matrix that is not symmetric up to round-off.

    Args:
        argument: Name used in the error.
        matrix: Square matrix [n, n].

    Raises:
        ValueError: If an entry differs from its mirror image by more than 1e-8 of the largest.
    """
    asymmetry = np.abs(matrix - matrix.T).max(initial=0.0)
    if asymmetry > 1e-8 * np.abs(matrix).max(initial=0.0):
        raise ValueError(
            f"{argument} must be symmetric, got entries that differ from their mirror image by "
            f"{asymmetry:.3g}; pass (X + X.T) / 2 if this is round-off"
        )


def check_damping(damping: float) -> None:
    """Refuse a damping outside [0, ∞).

    Args:
        damping: λ.

    Raises:
        ValueError: If λ is negative, NaN or infinite.
    """
    if not (math.isfinite(damping) and damping >= 0.0):
        raise ValueError(f"damping must be finite and >= 0, got {damping}; pass 0.0 for none")
