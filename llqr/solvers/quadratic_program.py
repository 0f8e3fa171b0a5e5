"""Minimise ½ xᵀHx − xᵀr subject to x ≥ l, for a few dozen variables."""

from __future__ import annotations

from typing import Any

from llqr.backend import Array, Backend, machine_epsilon

MAX_CHANGES = 20
"""Changes of the set of variables at their bounds before the search for it ends."""


def minimise(
    backend: Backend,
    matrix: Array,
    right: Array,
    start: Array,
    *,
    relative_cutoff: float,
    lower: Array | None = None,
) -> tuple[Array, Array]:
    """Return the minimiser and whether H has a clearly negative eigenvalue.

    Bounds are met by a primal-dual active set (Hintermüller, Ito, Kunisch, SIAM J. Optim. 13, 2002): solve
    with some variables at their bounds, let go of those whose multiplier is negative, take hold of those
    that crossed, until nothing changes. It ends at the exact minimiser; after :data:`MAX_CHANGES` changes
    the last point is returned, which may still lie outside the bounds.

    Args:
        backend: array operations.
        matrix: H [n, n], symmetric.
        right: r [n].
        start: what variables without curvature keep, within the bounds.
        relative_cutoff: eigenvalues of H, scaled to unit diagonal, below this fraction of the largest count
            as zero; below minus that fraction as negative curvature.
        lower: l [n], −∞ for none; None for no bounds at all.
    """

    def solved(held: Array | None) -> tuple[Array, Array]:
        values = start if held is None else backend.where(held, lower, start)
        return _solve(backend, matrix, right, values, relative_cutoff, held)

    solution, negative = solved(None)
    if lower is None:
        return solution, negative

    def changes(state: tuple[Any, ...]) -> Array:
        held, moved, _, count = state
        return (held != moved).any() & (count < MAX_CHANGES)

    def change(state: tuple[Any, ...]) -> tuple[Any, ...]:
        _, held, _, count = state
        x, _ = solved(held)
        multiplier = matrix @ x - right
        return held, backend.where(held, multiplier >= 0.0, x < lower), x, count + 1

    nobody = solution != solution
    crossed = solution < lower
    zero = backend.integer(0, solution)
    _, _, solution, _ = backend.while_loop(changes, change, (nobody, crossed, solution, zero))
    return solution, negative


def _solve(
    backend: Backend,
    matrix: Array,
    right: Array,
    values: Array,
    relative_cutoff: float,
    held: Array | None,
) -> tuple[Array, Array]:
    """Solve for the variables that are not held and have curvature; the others keep ``values``.

    H is scaled to unit diagonal first: curvatures may differ by many orders of magnitude.

    Returns:
        The solution, NaN where H is not finite, and whether H has a clearly negative eigenvalue.
    """
    diagonal = matrix.diagonal()
    zeros, ones = backend.zeros(values.shape, values), backend.ones(values.shape, values)
    cutoff = max(relative_cutoff, 8.0 * diagonal.shape[0] * machine_epsilon(diagonal))
    used = diagonal > 0.0 if held is None else (diagonal > 0.0) & ~held
    scale = backend.where(used, 1.0 / backend.sqrt(backend.where(used, diagonal, ones)), zeros)
    scaled = matrix * scale.reshape((-1, 1)) * scale.reshape((1, -1))
    finite = backend.isfinite(scaled) & backend.isfinite(matrix)
    eigenvalues, vectors = backend.eigh(backend.where(finite, scaled, zeros))
    largest = abs(eigenvalues).max()
    keep = eigenvalues > cutoff * largest
    inverse = backend.where(keep, 1.0 / backend.where(keep, eigenvalues, ones), zeros)
    known = matrix @ backend.where(used, zeros, values)
    solution = scale * (vectors @ (inverse * (vectors.T @ (scale * (right - known)))))
    solution = backend.where(finite, solution, zeros + float("nan"))
    steepest = abs(diagonal).max()
    negative = (eigenvalues.min() < -cutoff * largest) | (diagonal.min() < -cutoff * steepest)
    return backend.where(used, solution, values), negative & finite
