"""The quadratic model of a divergence: the only thing inner solvers see of a network.

    m(δ) = ⟨g, δ⟩ + ½ ⟨δ, (C + λI) δ⟩          (relaxed LLQR, arXiv 2605.04230)

The layerwise LQR cost is this same number, so one curvature-vector product of the whole, un-annotated
model gives both its value and its gradient r = g + (C + λI) δ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from llqr import tensors
from llqr.backend import Array, Tensors
from llqr.directions import Directions


@dataclass(frozen=True, kw_only=True)
class QuadraticModel:
    """m(δ) around the current parameters on one batch.

    Attributes:
        gradient: g = ∇L(θ), one array per parameter.
        curvature_product: v ↦ C v without damping; costs one curvature-vector product.
        damping: λ ≥ 0, a number or a 0-d array.
        gram: optional directions ↦ [n, n] matrix of ⟨d_j, C d_k⟩, in the order of their groups; forward
            products only (Gauss-Newton family).
        loss: optional δ ↦ L(θ + δ) on the same batch, to compare with what m promises.
        loss_here: L(θ), if it is at hand.
        loss_and_gradient: optional δ ↦ (L(θ + δ), ∇L(θ + δ)) on the same batch, for acceptance rules.
    """

    gradient: Tensors  # g
    curvature_product: Callable[[Tensors], Tensors]  # C v
    damping: Array | float = 0.0  # λ
    gram: Callable[[Sequence[Directions]], Array] | None = None
    loss: Callable[[Tensors], Array] | None = None
    loss_here: Array | None = None
    loss_and_gradient: Callable[[Tensors], tuple[Array, Tensors]] | None = None

    def with_damping(self, damping: Array | float) -> QuadraticModel:
        """Return the same model with another λ."""
        return replace(self, damping=damping)

    def product(self, direction: Tensors) -> Tensors:
        """Return (C + λI) v: one curvature-vector product."""
        product = self.curvature_product(direction)
        if isinstance(self.damping, float) and self.damping == 0.0:
            return product  # spares a vector of the size of the network
        return tensors.add_scaled(product, self.damping, direction)

    def along(self, direction: Tensors) -> tuple[Array, Array]:
        """Return ⟨x, g⟩ and ⟨x, (C + λI) x⟩, which give m(−c x) for every number c.

        Costs one curvature-vector product, or a forward product where there is ``gram``.
        """
        slope = tensors.dot(direction, self.gradient)
        if self.gram is None:
            return slope, tensors.dot(direction, self.product(direction))
        alone = Directions(count=1, combine=lambda e: tensors.scale(e[0], direction))
        curvature = self.gram([alone])[0, 0]
        return slope, curvature + self.damping * tensors.dot(direction, direction)

    def initial_loss(self) -> Array:
        """Return L(θ); evaluates the loss unless it is at hand.

        Raises:
            ValueError: if the model knows no loss.
        """
        if self.loss_here is not None:
            return self.loss_here
        nowhere = tensors.scale(0.0, self.gradient)
        if self.loss is not None:
            return self.loss(nowhere)
        if self.loss_and_gradient is not None:
            return self.loss_and_gradient(nowhere)[0]
        raise ValueError(
            "the loss at θ needs loss_here, loss or loss_and_gradient, got none; supply one of them"
        )

    def residual(self, step: Tensors) -> Tensors:
        """Return r = g + (C + λI) δ, the gradient of m at δ: one curvature-vector product."""
        return tensors.add(self.gradient, self.product(step))

    def value(self, step: Tensors, residual: Tensors) -> Array:
        """Return m(δ) = ½ ⟨g + r, δ⟩ from the residual r at δ: no further product."""
        return 0.5 * tensors.dot(tensors.add(self.gradient, residual), step)
