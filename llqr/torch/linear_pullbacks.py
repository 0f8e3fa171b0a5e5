"""Convolutions and normalisations whose forward products cost what they should.

Forward products J v are taken by double backward (:mod:`llqr.torch.linearisation`): a layer's pull-back
P(u) = ∂⟨f(x, w), u⟩/∂(x, w) is linear in u, and what is wanted is its derivative along u,

    ∂⟨P(u), v⟩/∂u = J_f v.

torch's second derivatives of these layers compute those in x and w as well, whether asked for or not: of a
convolution f(x, w) = B(x, w) four products, two of them for nothing, and most of what they do for a
normalisation. Here, while :meth:`LinearPullBacks.built` is active, pull-backs depend on u alone:

    convolution     J_f v = B(v_x, w) + B(x, v_w)
    layer norm      P_x(u) = r (γu − mean γu − x̂ mean(x̂ γu)),   x̂ = r (x − mean x),   f = γ x̂ + β
    batch norm      P_x(u) = r γ u,   x̂ = r (x − μ),   μ and r from running statistics

At other times, and in all other derivatives, the layers are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Needed = tuple[bool, bool, bool]
"""Of which of input, weight and bias a derivative is needed."""


class LinearPullBacks:
    """What stands for the layers of a model, and whether pull-backs shall depend on u alone."""

    def __init__(self) -> None:
        self.wanted = False

    @contextmanager
    def built(self) -> Iterator[None]:
        """Leave out what second derivatives in x and w would need, in graphs that are built now, at u = 0."""
        self.wanted = True
        try:
            yield
        finally:
            self.wanted = False

    def forward_of(self, module: nn.Module) -> Callable[..., Tensor] | None:
        """Return what stands for ``module.forward``, None if torch's own has to do.

        Args:
            module: of exactly one of torch's classes, since a subclass may compute anything.
        """
        make = _LAYERS.get(type(module))
        layer = None if make is None else make(module)
        if layer is None:
            return None

        def forward(input: Tensor, *rest: Any, **named: Any) -> Tensor:
            tensors = input, module.weight, module.bias
            if rest or named or not (_supported(*tensors) and layer.takes(input)):
                return type(module).forward(module, input, *rest, **named)
            return _Layer.apply(self, layer, *tensors)  # type: ignore[return-value]

        return forward


class _Rule(Protocol):
    """One kind of layer. ``kept`` is what its value leaves for its pull-backs."""

    def takes(self, x: Tensor) -> bool: ...

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        """Return f and what is kept."""
        ...

    def full(self, u: Tensor, needed: Needed, x: Tensor, weight: Any, *kept: Any) -> Any:
        """Return the pull-back, differentiable in everything."""
        ...

    def linear(self, u: Tensor, needed: Needed, x: Tensor, weight: Any, *kept: Any) -> Any:
        """Return the pull-back at u = 0, differentiable in u; the other tensors are detached."""
        ...


class _Layer(torch.autograd.Function):
    """f(x, w, b) by a rule."""

    @staticmethod
    def forward(
        ctx: Any, switch: LinearPullBacks, rule: _Rule, x: Tensor, weight: Any, bias: Any
    ) -> Tensor:
        value, *kept = rule.value(x, weight, bias)
        # What is computed again during a backward pass (checkpoints) may differentiate itself in there.
        ctx.switch = None if switch.wanted else switch
        ctx.rule = rule
        ctx.save_for_backward(x, weight, *kept)
        return value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        rule, saved, needed = ctx.rule, ctx.saved_tensors, ctx.needs_input_grad[2:]
        if ctx.switch is None or not ctx.switch.wanted:
            return None, None, *rule.full(*cotangents, needed, *saved)
        constants = [None if tensor is None else tensor.detach() for tensor in saved]
        return None, None, *rule.linear(*cotangents, needed, *constants)


class _Convolution(NamedTuple):
    """B, with one stride, border and so on per axis."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    def takes(self, x: Tensor) -> bool:
        return x.ndim == len(self.stride) + 2

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        return (torch.convolution(x, weight, bias, *self),)

    def full(self, u: Tensor, needed: Needed, x: Tensor, weight: Any) -> Any:
        return torch.ops.aten.convolution_backward(u, x, weight, [u.shape[1]], *self, needed)

    def linear(self, u: Tensor, needed: Needed, x: Tensor, weight: Any) -> Any:
        along_bias = _summed(u, (0, *range(2, u.ndim))) if needed[2] else None
        return *_ConvolutionPullBack.apply(u, needed, x, weight, self), along_bias  # type: ignore[misc]


class _ConvolutionPullBack(torch.autograd.Function):
    """u ↦ ∂⟨B(x, w), u⟩/∂(x, w) at u = 0; x and w are constants."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, needed: Needed, x: Tensor, weight: Tensor, b: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.product = b
        # The graph is built at u = 0, so what goes back is zero, and takes no memory either.
        zero = u.new_zeros(())
        return tuple(
            zero.expand(tensor.shape) if wanted else None
            for tensor, wanted in zip((x, weight), needed[:2], strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> Any:
        x, weight = ctx.saved_tensors
        moved, turned = tangents
        parts = []
        if moved is not None:
            parts.append(torch.convolution(moved, weight, None, *ctx.product))
        if turned is not None:
            parts.append(torch.convolution(x, turned, None, *ctx.product))
        return sum(parts[1:], *parts[:1]) if parts else None, None, None, None, None


class _LayerNorm(NamedTuple):
    """Over the last axes, of this shape."""

    shape: tuple[int, ...]
    epsilon: float

    def takes(self, x: Tensor) -> bool:
        return True

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        return torch.native_layer_norm(x, self.shape, weight, bias, self.epsilon)

    def full(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, rate: Tensor
    ) -> Any:
        # Only its presence counts, not what it is.
        bias = weight if needed[2] else None
        return torch.ops.aten.native_layer_norm_backward(
            u, x, self.shape, mean, rate, weight, bias, needed
        )

    def linear(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, rate: Tensor
    ) -> Any:
        axes = tuple(range(-len(self.shape), 0))
        others = tuple(range(x.ndim - len(self.shape)))
        normalised = rate * (x - mean)
        turned = u if weight is None else weight * u
        along = (normalised * turned).mean(axes, keepdim=True)
        return (
            rate * (turned - turned.mean(axes, keepdim=True) - normalised * along),
            _summed(normalised * u, others) if needed[1] else None,
            _summed(u, others) if needed[2] else None,
        )


class _BatchNorm(NamedTuple):
    """With the running statistics of a module, where it uses those."""

    module: Any

    def takes(self, x: Tensor) -> bool:
        module = self.module
        return not module.training and module.running_mean is not None and x.ndim >= 2

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        module = self.module
        value = type(module).forward(module, x)
        return value, module.running_mean, module.running_var

    def full(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, variance: Tensor
    ) -> Any:
        return torch.ops.aten.native_batch_norm_backward(
            u, x, weight, mean, variance, None, None, False, self.module.eps, needed
        )

    def linear(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, variance: Tensor
    ) -> Any:
        others = (0, *range(2, x.ndim))
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        rate = torch.rsqrt(variance + self.module.eps).reshape(per_channel)
        scale = rate if weight is None else rate * weight.reshape(per_channel)
        normalised = rate * (x - mean.reshape(per_channel))
        return (
            scale * u,
            _summed(normalised * u, others) if needed[1] else None,
            _summed(u, others) if needed[2] else None,
        )


def _summed(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    # An empty tuple would mean all axes.
    return values.sum(axes) if axes else values


def _supported(*tensors: Tensor | None) -> bool:
    """Are the tensors of one dtype in which products are taken, outside of transforms of functions."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    # Kernels for shorter numbers compute in float32 inside. torch asks in the same way before it refuses.
    plain = not torch._C._are_functorch_transforms_active()
    return plain and len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64}


def _convolution(module: Any) -> _Rule | None:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    return _Convolution(
        module.stride,
        module.padding,
        module.dilation,
        module.transposed,
        module.output_padding,
        module.groups,
    )


_LAYERS: dict[type[nn.Module], Callable[[Any], _Rule | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BatchNorm),
    nn.LayerNorm: lambda module: _LayerNorm(module.normalized_shape, module.eps),
}
"""Class ↦ the rule of one of its modules, None if there is none."""
