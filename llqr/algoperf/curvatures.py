"""The Fisher without stored tangents, for outputs as large as vocabularies."""

from __future__ import annotations

from dataclasses import dataclass

from llqr.backend import Backend, Tensors
from llqr.curvature import AbstractCurvature, GaussNewton, gauss_newton
from llqr.linearisation import Linearisation
from llqr.metrics import AbstractMetric


@dataclass(frozen=True, kw_only=True)
class ProductsOnly(AbstractCurvature):
    """The same C as ``base``, but known by products C v alone.

    A Gram matrix then costs a forward and a backward product per direction and stores no tangents of the
    outputs.

    Attributes:
        base: the curvature.
    """

    base: GaussNewton

    @property
    def divides_by_normaliser(self) -> bool:
        """As the base curvature."""
        return self.base.divides_by_normaliser

    @property
    def output_metric(self) -> AbstractMetric | None:
        """As the base curvature's."""
        return self.base.output_metric

    def chunk_product(
        self, backend: Backend, linearisation: Linearisation, direction: Tensors
    ) -> Tensors:
        """Return Σ_k J_kᵀ M_k J_k v."""
        return self.base.chunk_product(backend, linearisation, direction)


def fisher(metric: AbstractMetric, output_metric: float, store_tangents: bool) -> AbstractCurvature:
    """Return Jᵀ(F + εI)J.

    Args:
        metric: F.
        output_metric: ε ≥ 0.
        store_tangents: may Gram matrices store every direction's tangent of the outputs.
    """
    full = gauss_newton(metric, output_metric=output_metric)
    return full if store_tangents else ProductsOnly(base=full)
