"""Dense oracles of the quadratic model m(δ) = ⟨g, δ⟩ + ½ ⟨δ, (C + λI) δ⟩ in numpy float64.

Every function raises ValueError if a shape does not fit, an entry is NaN or Inf, C is not symmetric,
λ is negative, or the matrix to be inverted is singular.
"""

import numpy as np

from llqr.reference._checks import Array, check_damping, check_symmetric, float64_array


def quadratic_value(gradient: Array, curvature: Array, damping: float, delta: Array) -> float:
    """Evaluate m(δ) = ⟨g, δ⟩ + ½ ⟨δ, (C + λI) δ⟩.

    Args:
        gradient: g [n].
        curvature: C [n, n], symmetric, need not be definite.
        damping: λ ≥ 0.
        delta: δ [n].

    Returns:
        m(δ).
    """
    gradient, damped = _damped_model(gradient, curvature, damping)
    delta = float64_array("delta", delta, gradient.shape)
    return float(gradient @ delta + 0.5 * delta @ damped @ delta)


def dense_step(gradient: Array, curvature: Array, damping: float) -> Array:
    """Solve for the stationary point −(C + λI)⁻¹ g, the minimiser if C + λI is positive definite.

    Args:
        gradient: g [n].
        curvature: C [n, n], symmetric, need not be definite.
        damping: λ ≥ 0.

    Returns:
        δ [n].
    """
    gradient, damped = _damped_model(gradient, curvature, damping)
    return -_solve("curvature + damping * I", damped, gradient)


def gram_solve(gradient: Array, curvature: Array, damping: float, directions: Array) -> Array:
    """Minimise m(−D s) over the coefficients s of a span: (Dᵀ (C + λI) D) s = Dᵀ g.

    Args:
        gradient: g [n].
        curvature: C [n, n], symmetric.
        damping: λ ≥ 0.
        directions: D [n, k], one direction per column, linearly independent.

    Returns:
        s [k]; the step is δ = −D s.
    """
    gradient, damped = _damped_model(gradient, curvature, damping)
    directions = np.asarray(directions, dtype=np.float64)
    columns = directions.shape[1] if directions.ndim == 2 else 1
    directions = float64_array("directions", directions, (len(gradient), columns))
    gram = directions.T @ damped @ directions
    return _solve("the Gram matrix of directions", gram, directions.T @ gradient)


def _damped_model(gradient: Array, curvature: Array, damping: float) -> tuple[Array, Array]:
    """Check the arguments and return g and C + λI."""
    width = np.size(gradient)
    gradient = float64_array("gradient", gradient, (width,))
    curvature = float64_array("curvature", curvature, (width, width))
    check_symmetric("curvature", curvature)
    check_damping(damping)
    return gradient, curvature + damping * np.eye(width)


def _solve(argument: str, matrix: Array, right_hand_side: Array) -> Array:
    """Solve a linear system and word the error of a singular one."""
    try:
        return np.linalg.solve(matrix, right_hand_side)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"{argument} must be invertible, got a singular matrix; "
            "raise the damping or drop dependent directions"
        ) from error
