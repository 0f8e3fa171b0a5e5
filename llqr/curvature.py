"""Curvature C of the quadratic model: what product to build from a linearised network.

    Hessian        C = ∂²L                              (newton; may be indefinite)
    GaussNewton    C = Σ_k J_kᵀ M_k J_k                 J_k = ∂x_k/∂θ

In ``GaussNewton`` the key ``"output"`` stands for the network's output x_N and every other key for an
intermediate layer x_k that the model function returns beside it. M_k is a metric of
:mod:`llqr.divergences` (then C is a Fisher), or :class:`LossHessian` on the output (then C is the
Hessian of the loss of the linearised network).
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

from llqr._checks import check_not_negative
from llqr.backend import Array, Backend, Tensors
from llqr.directions import Directions, joined
from llqr.divergences import Gaussian
from llqr.linearisation import OUTPUT, Linearisation, LinearisedProblem
from llqr.metrics import AbstractMetric, check_metric
from llqr.quadratic import QuadraticModel
from llqr.structures.base import identity

__all__ = [
    "OUTPUT",
    "AbstractCurvature",
    "GaussNewton",
    "Hessian",
    "Linearisation",
    "LinearisedProblem",
    "LossHessian",
    "gauss_newton",
    "quadratic_model",
]


@dataclass(frozen=True, kw_only=True)
class LossHessian:
    """Marks ``GaussNewton`` on the loss's own Hessian ℓ''(x_N) instead of a metric."""


@dataclass(frozen=True, kw_only=True)
class AbstractCurvature(abc.ABC):
    """What matrix C the quadratic model uses."""

    @abc.abstractmethod
    def chunk_product(
        self, backend: Backend, linearisation: Linearisation, direction: Tensors
    ) -> Tensors:
        """Return this chunk's part of C v for the summed loss."""

    @property
    def divides_by_normaliser(self) -> bool:
        """Is C the mean's curvature (True) or the sum's over the batch (False)."""
        return True

    @property
    def output_metric(self) -> AbstractMetric | None:
        """The metric on the network's output, when there is one; it knows the loss's normaliser."""
        return None


@dataclass(frozen=True, kw_only=True)
class Hessian(AbstractCurvature):
    """C = ∂²L, the loss itself as divergence (Newton)."""

    def chunk_product(
        self, backend: Backend, linearisation: Linearisation, direction: Tensors
    ) -> Tensors:
        """Return ∂²(summed loss) v."""
        return linearisation.hessian_product(direction)


@dataclass(frozen=True, kw_only=True)
class GaussNewton(AbstractCurvature):
    """C = Σ_k J_kᵀ M_k J_k.

    Attributes:
        metric: M on the network's output: a Fisher metric, ``LossHessian()``, or None for none.
        intermediate: metrics on intermediate layers, by the name the model function gives them.
        reduction: ``"mean"`` divides C by the loss's normaliser as the loss is; ``"sum"`` does not (the
            published code: its Fisher is batch size times the mean one).
    """

    metric: AbstractMetric | LossHessian | None = None
    intermediate: Mapping[str, AbstractMetric] = field(default_factory=dict)
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.metric is None and not self.intermediate:
            raise ValueError(
                "metric must be given when there are no intermediate metrics, got None; pass e.g. "
                "metric=llqr.divergences.Categorical() or metric=LossHessian()"
            )
        if self.metric is not None and not isinstance(self.metric, LossHessian):
            check_metric("metric", self.metric)
        if OUTPUT in self.intermediate:
            raise ValueError(
                f"intermediate must not hold the key {OUTPUT!r}, which names the network's output, "
                f"got {sorted(self.intermediate)}; pass that one as metric="
            )
        for name, metric in self.intermediate.items():
            check_metric(f"intermediate[{name!r}]", metric)
        if self.reduction not in ("mean", "sum"):
            raise ValueError(
                f'curvature_reduction must be "mean" or "sum", got {self.reduction!r}; '
                '"mean" matches a mean loss, "sum" the published code'
            )

    @property
    def divides_by_normaliser(self) -> bool:
        """True for ``reduction="mean"``."""
        return self.reduction == "mean"

    @property
    def output_metric(self) -> AbstractMetric | None:
        """The metric on the output, unless it is the loss's Hessian."""
        return self.metric if isinstance(self.metric, AbstractMetric) else None

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the outputs that have an M_k, sorted."""
        return tuple(sorted([*self.intermediate, *([OUTPUT] if self.metric is not None else [])]))

    def chunk_product(
        self, backend: Backend, linearisation: Linearisation, direction: Tensors
    ) -> Tensors:
        """Return Σ_k J_kᵀ M_k J_k v."""
        tangents = linearisation.jvp(direction)
        return linearisation.vjp(self.metric_products(backend, linearisation, tangents))

    def metric_products(
        self, backend: Backend, linearisation: Linearisation, tangents: dict[str, Array]
    ) -> dict[str, Array]:
        """Return M_k u_k for every output that has a metric.

        Raises:
            KeyError: if the model function returns no intermediate of a metric's name.
        """
        self._check_outputs(tangents)
        products: dict[str, Array] = {}
        for name in self.measured:
            metric = self.metric if name == OUTPUT else self.intermediate[name]
            if isinstance(metric, AbstractMetric):
                products[name] = metric.product(
                    backend,
                    linearisation.outputs[name],
                    linearisation.weights.get(name),
                    tangents[name],
                )
            else:
                products[name] = linearisation.output_hessian_product(tangents[name])
        return products

    def chunk_gram(
        self,
        backend: Backend,
        linearisation: Linearisation,
        groups: Sequence[Directions],
    ) -> Array:
        """Return [n, n] = Tᵀ M T with T = [J d_1, …, J d_n]: one forward product per direction.

        Raises:
            KeyError: as :meth:`metric_products`.
        """
        self._check_outputs(linearisation.outputs)
        # Taken outside of the map, since what products share cannot be computed in there.
        jvp = linearisation.jvp
        shapes = {name: linearisation.outputs[name].shape for name in self.measured}

        def tangents(directions: Directions) -> Array:
            units = identity(backend, directions.count, linearisation.outputs[OUTPUT])
            return backend.map(lambda row: self._flat(backend, jvp(directions.combine(row))), units)

        def products(row: Array) -> Array:
            pieces, start = {}, 0
            for name, shape in shapes.items():
                pieces[name] = row[start : start + prod(shape)].reshape(shape)
                start += prod(shape)
            return self._flat(backend, self.metric_products(backend, linearisation, pieces))

        taken = [joined(groups)] if backend.compiled else groups
        stacked = backend.concatenate([tangents(group) for group in taken])
        return stacked @ backend.map(products, stacked).T

    def _check_outputs(self, outputs: Mapping[str, Array]) -> None:
        for name in self.measured:
            if name not in outputs:
                raise KeyError(
                    f"intermediate metric {name!r} has no output of that name; the model function "
                    f"returns {sorted(outputs)}"
                )

    def _flat(self, backend: Backend, values: dict[str, Array]) -> Array:
        """Return what was measured as one vector."""
        pieces = [values[name].reshape((-1,)) for name in self.measured]
        # Nearly always there is one, and joining it with nothing would copy it.
        return pieces[0] if len(pieces) == 1 else backend.concatenate(pieces)


def quadratic_model(curvature: AbstractCurvature, problem: LinearisedProblem) -> QuadraticModel:
    """Build m(δ) of the mean loss from a linearised problem.

    Args:
        curvature: which C.
        problem: the linearised curvature batch.

    Returns:
        The model with λ = 0; see :meth:`QuadraticModel.with_damping`.
    """
    backend = problem.backend
    first = problem.sum_over_chunks(
        lambda chunk: {
            "gradient": chunk.gradient(),
            "loss": chunk.loss,
            "normaliser": chunk.normaliser,
        }
    )
    inverse = 1.0 / first["normaliser"]

    def divided(total: Tensors) -> Tensors:
        return {name: value * backend.asarray(inverse, value) for name, value in total.items()}

    def curvature_divided(total: Tensors) -> Tensors:
        return divided(total) if curvature.divides_by_normaliser else total

    def product(direction: Tensors) -> Tensors:
        total = problem.sum_over_chunks(
            lambda chunk: curvature.chunk_product(backend, chunk, direction)
        )
        return curvature_divided(total)

    return QuadraticModel(
        gradient=divided(first["gradient"]),
        curvature_product=product,
        gram=_gram(curvature, problem, curvature_divided)
        if isinstance(curvature, GaussNewton)
        else None,
        loss=problem.loss,
        loss_here=first["loss"] * inverse,
        loss_and_gradient=problem.loss_and_gradient,
    )


def _gram(
    curvature: GaussNewton, problem: LinearisedProblem, divided: Callable[[Tensors], Tensors]
) -> Callable[[Sequence[Directions]], Array]:
    """Return directions ↦ [n, n], see :class:`QuadraticModel`."""
    backend = problem.backend

    def gram(groups: Sequence[Directions]) -> Array:
        total = problem.sum_over_chunks(
            lambda chunk: {"gram": curvature.chunk_gram(backend, chunk, groups)}
        )
        return divided(total)["gram"]

    return gram


def gauss_newton(
    metric: AbstractMetric,
    *,
    output_metric: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> GaussNewton:
    """Return C = Jᵀ(F + εI)J, the Fisher with a small metric ε on the network's outputs.

    Args:
        metric: F, the Fisher of the output distribution.
        output_metric: ε ≥ 0; bounds the step where the Fisher vanishes (near interpolation).
        reduction: see :class:`GaussNewton`.

    Raises:
        ValueError: if ε is negative.
        TypeError: if ``metric`` is not a metric object.
    """
    check_not_negative("output_metric", output_metric, 0.01)
    check_metric("metric", metric)
    full = metric if output_metric == 0.0 else metric + Gaussian(precision=float(output_metric))
    return GaussNewton(metric=full, reduction=reduction)
