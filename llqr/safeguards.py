"""What a preconditioned vector falls back to where it cannot be used, and what length it takes.

    finite_or    U x, or x where ‖U x‖ is not finite
    grafted      (‖x‖ / ‖U x‖) U x, or x where U turns it by more than a right angle

An average of fits can turn a vector by more than any of them does, and a step against the base optimizer's
direction is none that a fit has asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from llqr.backend import Array, Backend, Tensors


def finite_or(
    backend: Backend, values: Sequence[Array], fallbacks: Sequence[Array]
) -> tuple[list[Array], Array]:
    """Return every value whose norm is finite, else its fallback, and how many those are.

    The norm decides, because a value too large for it could not be rescaled or stepped along.

    Returns:
        The chosen arrays, and a 0-d integer.
    """
    finite = backend.norms(values) < float("inf")  # not where it is NaN
    count = backend.integer((~finite).sum(), finite)
    return backend.choose(finite, values, fallbacks), count


def grafted(backend: Backend, values: Tensors, plain: Tensors) -> Tensors:
    """Return U x in the length of x, parameter by parameter, or x where ⟨U x, x⟩ or ‖U x‖ is not positive.

    Args:
        backend: array operations.
        values: U x, finite, by parameter.
        plain: x, of the same names and shapes.
    """
    turned, straight = list(values.values()), [plain[name] for name in values]
    norms, targets = backend.norms(turned), backend.norms(straight)
    usable = (backend.dots(turned, straight) > 0.0) & (norms > 0.0)
    shares = targets / backend.where(usable, norms, backend.ones(norms.shape, norms))
    scaled = backend.scaled(turned, shares)
    return dict(zip(values, backend.choose(usable, scaled, straight), strict=True))
