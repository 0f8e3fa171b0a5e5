"""The cached linearisation of a torch model on one chunk, and its products.

    g_u = Jᵀ u     built once with its graph; linear in u
    J v = ∂⟨g_u, v⟩/∂u                        (forward product by double backward)
    Jᵀ w                                      (backward through the cached forward graph)
    H v = ∂⟨∇L, v⟩/∂θ                         (∇L built once with its graph)

A Gauss-Newton product J ᵀM J v thus costs two of the three matrix products per layer of a gradient
forth and two back, 4/3 of a gradient, and recomputes nothing. Parameters are differentiated in place;
``.grad`` is never written and hooks of data-parallel wrappers never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from llqr.backend import Tensors
from llqr.curvature import OUTPUT, GaussNewton, Hessian
from llqr.torch.backend import TorchBackend
from llqr.torch.evaluation import ModelFunction

_SMALL = 1024
"""Tensors of fewer elements are not worth asking whether they are zero."""


class TorchLinearisation:
    """A model at its current parameters on one chunk (:class:`llqr.curvature.Linearisation`).

    Everything it returns is detached and in the working dtype.

    Args:
        function: the model and loss.
        batch: one chunk.
    """

    def __init__(self, function: ModelFunction, batch: Any) -> None:
        self._function = function
        self._batch = batch
        self._parameters = list(function.parameters.values())
        self._pass = function.new_pass()
        with self._pass.active():
            evaluation = function.evaluate(batch)
        if not evaluation.loss.requires_grad:
            raise ValueError(
                "the loss must depend on a trainable parameter, got one that depends on none; do "
                "not detach the outputs, and train at least one parameter the model uses"
            )
        self._summed_loss = evaluation.loss
        self._attached = evaluation.outputs
        self.outputs = {k: v.detach().to(function.dtype) for k, v in evaluation.outputs.items()}
        self.weights: Mapping[str, Tensor] = evaluation.weights
        self.normaliser = evaluation.normaliser
        self.loss = evaluation.loss.detach()
        self._gradient: list[Tensor] | None = None  # ∇L with its graph
        self._forward: tuple[list[Tensor], list[Tensor]] | None = None  # u, g_u
        self._output_gradient: tuple[Tensor, Tensor] | None = None  # x_N, ∂ℓ/∂x_N
        self._check_metrics()

    def in_one_pass(self, function: Callable[[TorchLinearisation], Any]) -> Any:
        """Return what a function makes of it; its products then enter the pass once."""
        with self._pass.active():
            return function(self)

    def gradient(self) -> Tensors:
        """Return the gradient of the summed loss."""
        if self._gradient is not None or isinstance(self._function.curvature, Hessian):
            return self._named(self._attached_gradient())
        with self._pass.active():
            return self._named(gradients([self._summed_loss], self._parameters))

    @property
    def jvp(self) -> Callable[[Tensors], dict[str, Tensor]]:
        """The map v ↦ J_k v for every named output: at most two matrix products per layer.

        Layers before the first one that v moves cost nothing, and that layer costs one.
        """
        if self._forward is None:
            outputs = [self._attached[name] for name in self._differentiable()]
            u = [torch.zeros_like(output, requires_grad=True) for output in outputs]
            hooks = saved_tensors_hooks(_without_zeros, _with_zeros)
            with self._pass.active(), hooks, self._pass.pullbacks.switched_on():
                self._forward = u, gradients(outputs, self._parameters, u, create_graph=True)
        return self._forward_product

    def _forward_product(self, direction: Tensors) -> dict[str, Tensor]:
        assert self._forward is not None
        u, pulled = self._forward
        with self._pass.active():
            moved = gradients(*self._along(pulled, direction, u))
        tangents = {name: torch.zeros_like(value) for name, value in self.outputs.items()}
        for name, tangent in zip(self._differentiable(), moved, strict=True):
            tangents[name] = tangent.to(self._function.dtype)
        return tangents

    def vjp(self, cotangents: dict[str, Tensor]) -> Tensors:
        """Return Σ_k J_kᵀ u_k: two matrix products per layer."""
        names = [name for name in self._differentiable() if name in cotangents]
        outputs = [self._attached[name] for name in names]
        given = [cotangents[n].to(o.dtype) for n, o in zip(names, outputs, strict=True)]
        with self._pass.active():
            return self._named(gradients(outputs, self._parameters, given))

    def hessian_product(self, direction: Tensors) -> Tensors:
        """Return ∂²(summed loss) v: backward through the cached gradient."""
        gradient = self._attached_gradient()
        with self._pass.active(), _second_derivative():
            return self._named(gradients(*self._along(gradient, direction, self._parameters)))

    def output_hessian_product(self, tangent: Tensor) -> Tensor:
        """Return ∂²(summed loss)/∂x_N² u, by double backward through the loss alone."""
        with self._pass.active():
            if self._output_gradient is None:
                output = self.outputs[OUTPUT].clone().requires_grad_()
                loss, _ = self._function.summed_loss(output, self._batch, self.weights)
                (slope,) = gradients([loss], [output], create_graph=True)
                self._output_gradient = output, slope
            output, slope = self._output_gradient
            with _second_derivative():
                (product,) = gradients([slope], [output], [tangent.to(slope.dtype)])
        return product.to(self._function.dtype)

    def _check_metrics(self) -> None:
        """Raise what the metrics find wrong with outputs and weights, before any product is spent."""
        curvature = self._function.curvature
        if isinstance(curvature, GaussNewton):
            zeros = {name: torch.zeros_like(value) for name, value in self.outputs.items()}
            curvature.metric_products(TorchBackend(), self, zeros)

    def _attached_gradient(self) -> list[Tensor]:
        if self._gradient is None:
            with self._pass.active():
                self._gradient = gradients([self._summed_loss], self._parameters, create_graph=True)
        return self._gradient

    def _differentiable(self) -> list[str]:
        return [name for name, output in self._attached.items() if output.requires_grad]

    def _along(
        self, values: list[Tensor], direction: Tensors, inputs: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return the arguments that differentiate ⟨values, direction⟩ in ``inputs``.

        What the direction does not name is left out, so that nothing goes through its part of the graph.
        """
        named = zip(self._function.parameters, values, strict=True)
        moved = {name: value for name, value in named if name in direction}
        vectors = [direction[name].to(value.dtype) for name, value in moved.items()]
        return list(moved.values()), inputs, vectors

    def _named(self, values: list[Tensor]) -> Tensors:
        return {
            name: value.detach().to(self._function.dtype)
            for name, value in zip(self._function.parameters, values, strict=True)
        }


class _Zeros(NamedTuple):
    """Stands for a tensor of zeros without its memory."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def _without_zeros(saved: Tensor) -> Tensor | _Zeros:
    """Pack what the graph of g_u saves.

    g_u is linear in u and built at u = 0, so everything that was computed from u is zero. It is saved for
    derivatives in parameters and activations, which are never taken: half of the graph's memory.

    Returns:
        The tensor itself, or what stands for it if it is zero.
    """
    # Most that are not zero show it in their first example.
    if saved.numel() < _SMALL or bool(saved[0].any()) or bool(saved.any()):
        return saved
    return _Zeros(saved.shape, saved.dtype, saved.device)


def _with_zeros(packed: Tensor | _Zeros) -> Tensor:
    if isinstance(packed, Tensor):
        return packed
    return torch.zeros((), dtype=packed.dtype, device=packed.device).expand(packed.shape)


@contextmanager
def _second_derivative() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        error.add_note(
            "llqr: this curvature needs a second derivative of the loss, which some losses (CTC) and "
            "layers lack; a Fisher, e.g. GaussNewton(metric=FramewiseCategorical()), needs none"
        )
        raise


def gradients(
    outputs: list[Tensor],
    inputs: list[Tensor],
    vectors: list[Tensor] | None = None,
    *,
    create_graph: bool = False,
) -> list[Tensor]:
    """Return Σ ∂⟨outputs, vectors⟩/∂inputs, zeros where nothing depends; keeps the graph."""
    given = vectors if vectors is not None else [torch.ones_like(output) for output in outputs]
    # A derivative that is constant, or zero for want of a path, has no graph to go through.
    pairs = [(o, v) for o, v in zip(outputs, given, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(value) for value in inputs]
    return list(
        torch.autograd.grad(
            [output for output, _ in pairs],
            inputs,
            [vector for _, vector in pairs],
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    )
