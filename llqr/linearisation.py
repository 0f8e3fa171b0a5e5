"""What a framework supplies: a network linearised at its parameters, one chunk of a batch at a time.

With x_k the named outputs of the network (:data:`OUTPUT` is the last one, x_N) and J_k = ∂x_k/∂θ, the
curvatures of :mod:`llqr.curvature` are written in these products alone. Sums over chunks are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from llqr.backend import Array, Backend, Tensors

OUTPUT = "output"
"""Key of the network's output among the named outputs."""


class Linearisation(Protocol):
    """A network at fixed parameters on one chunk of a batch.

    Loss quantities belong to the *summed* loss of the chunk; the mean divides by ``normaliser``.

    Attributes:
        outputs: named outputs x_k.
        weights: per-event weights or masks of outputs that have some, as in the loss.
        normaliser: this chunk's part of what the mean loss divides by, 0-d.
        loss: the summed loss, 0-d.
    """

    outputs: dict[str, Array]
    weights: Mapping[str, Array]
    normaliser: Array
    loss: Array

    def gradient(self) -> Tensors:
        """Return the gradient of the summed loss."""
        ...

    def jvp(self, direction: Tensors) -> dict[str, Array]:
        """Return J_k v for every named output; v is zero where it names no parameter.

        Taking the method may compute what its products share; take it before products are batched.
        """
        ...

    def vjp(self, cotangents: dict[str, Array]) -> Tensors:
        """Return Σ_k J_kᵀ u_k over the outputs named in ``cotangents``."""
        ...

    def hessian_product(self, direction: Tensors) -> Tensors:
        """Return ∂²(summed loss) v."""
        ...

    def output_hessian_product(self, tangent: Array) -> Array:
        """Return ∂²(summed loss)/∂x_N² u."""
        ...


class LinearisedProblem(Protocol):
    """A whole curvature batch, as a sum over chunks (and over devices)."""

    backend: Backend

    def sum_over_chunks(self, contribution: Callable[[Any], Any]) -> Any:
        """Return the sum of ``contribution(linearisation)``, a nested dict of arrays, over chunks."""
        ...

    def loss(self, step: Tensors) -> Array:
        """Return the mean loss at θ + step: no derivative."""
        ...

    def loss_and_gradient(self, step: Tensors) -> tuple[Array, Tensors]:
        """Return the mean loss and its gradient at θ + step."""
        ...
