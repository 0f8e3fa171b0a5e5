"""Curvature C of the quadratic model: what product to build from a linearised network.

    Hessian        C = ∂²L                              (newton; may be indefinite)
    GaussNewton    C = Σ_k J_kᵀ M_k J_k                 J_k = ∂x_k/∂θ

In ``GaussNewton`` the key ``"output"`` stands for the network's output x_N and every other key for an
intermediate layer x_k that the model function returns beside it. M_k is a metric of
:mod:`llqr.divergences` (then C is a Fisher), or :class:`LossHessian` on the output (then C is the
Hessian of the loss of the linearised network).

A framework supplies :class:`Linearisation` objects, one per chunk of the curvature batch; sums over
chunks are exact.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from llqr.backend import Array, Backend, Tensors
from llqr.divergences import AbstractMetric, Gaussian
from llqr.quadratic import QuadraticModel

OUTPUT = "output"
"""Key of the network's output among the named outputs."""


class Linearisation(Protocol):
    """A network at fixed parameters on one chunk of a batch; a framework implements it.

    Loss quantities belong to the *summed* loss of the chunk; the mean divides by ``normaliser``.
    """

    outputs: dict[str, Array]
    weights: Mapping[str, Array]
    normaliser: Array
    loss: Array

    def gradient(self) -> Tensors:
        """Return the gradient of the summed loss."""
        ...

    def jvp(self, direction: Tensors) -> dict[str, Array]:
        """Return J_k v for every named output."""
        ...

    def vjp(self, cotangents: dict[str, Array]) -> Tensors:
        """Return Σ_k J_kᵀ u_k."""
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

    def loss_and_gradient(self, step: Tensors) -> tuple[Array, Tensors]:
        """Return the mean loss and its gradient at θ + step."""
        ...


@dataclass(frozen=True, kw_only=True)
class LossHessian:
    """Marks ``GaussNewton`` on the loss's own Hessian ℓ''(x_N) instead of a metric."""


@dataclass(frozen=True, kw_only=True)
class AbstractCurvature(abc.ABC):
    """What matrix C the quadratic model uses."""

    @abc.abstractmethod
    def chunk_product(self, backend: Backend, linearisation: Any, direction: Tensors) -> Tensors:
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

    def chunk_product(self, backend: Backend, linearisation: Any, direction: Tensors) -> Tensors:
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
        if self.metric is not None and not isinstance(self.metric, (AbstractMetric, LossHessian)):
            raise TypeError(
                f"metric must be a metric object or LossHessian(), got {self.metric!r}; "
                "pass e.g. llqr.divergences.Categorical()"
            )
        if OUTPUT in self.intermediate:
            raise ValueError(f'intermediate must not hold the key "{OUTPUT}"; pass it as metric=')
        for name, metric in self.intermediate.items():
            if not isinstance(metric, AbstractMetric):
                raise TypeError(f"intermediate[{name!r}] must be a metric object, got {metric!r}")
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

    def chunk_product(self, backend: Backend, linearisation: Any, direction: Tensors) -> Tensors:
        """Return Σ_k J_kᵀ M_k J_k v."""
        return linearisation.vjp(
            self.metric_products(backend, linearisation, linearisation.jvp(direction))
        )

    def metric_products(
        self, backend: Backend, linearisation: Any, tangents: dict[str, Array]
    ) -> dict[str, Array]:
        """Return M_k u_k for every output that has a metric.

        Raises:
            KeyError: if the model function returns no intermediate of a metric's name.
        """
        products: dict[str, Array] = {}
        if isinstance(self.metric, LossHessian):
            products[OUTPUT] = linearisation.output_hessian_product(tangents[OUTPUT])
        metrics = dict(self.intermediate)
        if self.output_metric is not None:
            metrics[OUTPUT] = self.output_metric
        for name, metric in metrics.items():
            if name not in tangents:
                raise KeyError(
                    f"intermediate metric {name!r} has no output of that name; the model function "
                    f"returns {sorted(tangents)}"
                )
            products[name] = metric.product(
                backend,
                linearisation.outputs[name],
                linearisation.weights.get(name),
                tangents[name],
            )
        return products

    def chunk_gram(
        self, backend: Backend, linearisation: Any, directions: Callable[[Array], Tensors], n: int
    ) -> Array:
        """Return [n, n] = Tᵀ M T with T = [J d_1, …, J d_n]: one forward product per direction."""
        some_output = linearisation.outputs[OUTPUT]
        rows = _basis(backend, n, some_output)
        names = sorted(linearisation.outputs)
        sizes = [linearisation.outputs[name].reshape((-1,)).shape[0] for name in names]

        def both(row: Array) -> Array:
            tangents = linearisation.jvp(directions(row))
            products = self.metric_products(backend, linearisation, tangents)
            flat = [tangents[name].reshape((-1,)) for name in names]
            flat += [
                products[name].reshape((-1,))
                if name in products
                else 0.0 * tangents[name].reshape((-1,))
                for name in names
            ]
            return backend.concatenate(flat)

        stacked = backend.map(both, rows)
        middle = sum(sizes)
        return stacked[:, :middle] @ stacked[:, middle:].T


def _basis(backend: Backend, n: int, like: Array) -> Array:
    import numpy as np

    return backend.asarray(np.eye(n), like)


def quadratic_model(curvature: AbstractCurvature, problem: Any) -> QuadraticModel:
    """Build m(δ) of the mean loss from a linearised problem.

    Args:
        curvature: which C.
        problem: a :class:`LinearisedProblem`.

    Returns:
        The model with λ = 0; see :meth:`QuadraticModel.with_damping`.
    """
    backend = problem.backend
    first = problem.sum_over_chunks(
        lambda chunk: {"gradient": chunk.gradient(), "normaliser": chunk.normaliser}
    )
    inverse = 1.0 / first["normaliser"]
    gradient = {name: value * inverse for name, value in first["gradient"].items()}
    divisor = inverse if curvature.divides_by_normaliser else 1.0

    def product(direction: Tensors) -> Tensors:
        total = problem.sum_over_chunks(
            lambda chunk: curvature.chunk_product(backend, chunk, direction)
        )
        return {name: value * divisor for name, value in total.items()}

    gram = None
    if isinstance(curvature, GaussNewton):

        def gram(directions: Callable[[Array], Tensors], n: int) -> Array:
            total = problem.sum_over_chunks(
                lambda chunk: {"gram": curvature.chunk_gram(backend, chunk, directions, n)}
            )
            return total["gram"] * divisor

    return QuadraticModel(
        gradient=gradient,
        curvature_product=product,
        gram=gram,
        loss_and_gradient=problem.loss_and_gradient,
    )


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
    """
    if output_metric < 0.0:
        raise ValueError(f"output_metric must be at least 0, got {output_metric!r}; pass e.g. 0.01")
    full = metric if output_metric == 0.0 else metric + Gaussian(precision=output_metric)
    return GaussNewton(metric=full, reduction=reduction)
