"""Convolutions and normalisations with pullbacks that are differentiable in the cotangent alone.

For a layer f(x, w) with the pullback P(u) = ∂⟨f, u⟩/∂(x, w):

    convolution     f = B(x, w) + b,   ∂⟨P(u), v⟩/∂u = B(v_x, w) + B(x, v_w) + v_b
    layer norm      f = γ x̂ + β,   x̂ = r (x − mean x),   P_x(u) = r (γu − mean γu − x̂ mean(x̂ γu))
    batch norm      f = γ x̂ + β,   x̂ = r (x − μ),   P_x(u) = r γ u,   μ and r from running statistics
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Needed = tuple[bool, bool, bool]
"""Of which of input, weight and bias a derivative is needed."""


class Rule(Protocol):
    """One kind of layer. ``kept`` is what its value leaves for its pullbacks."""

    def takes(self, x: Tensor) -> bool:
        """Can it serve this input now; else torch's own layer has to."""
        ...

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        """Return f and what is kept."""
        ...

    def full(self, u: Tensor, needed: Needed, x: Tensor, weight: Any, *kept: Any) -> Any:
        """Return the pullback, differentiable in everything."""
        ...

    def linear(self, u: Tensor, needed: Needed, x: Tensor, weight: Any, *kept: Any) -> Any:
        """Return the pullback differentiable in u; the other tensors are detached."""
        ...


def rule_of(module: nn.Module) -> Rule | None:
    """Return the rule of a layer that is exactly of one of torch's classes, None if there is none."""
    make = _RULES.get(type(module))
    return None if make is None else make(module)


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
        return *_ConvolutionPullback.apply(u, needed, x, weight, self), along_bias  # type: ignore[misc]


class _ConvolutionPullback(torch.autograd.Function):
    """u ↦ ∂⟨B(x, w), u⟩/∂(x, w); x and w are constants."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, needed: Needed, x: Tensor, weight: Tensor, b: Any) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight)
        ctx.product = b
        if bool(u.any()):
            mask = [needed[0], needed[1], False]
            pulled = torch.ops.aten.convolution_backward(u, x, weight, None, *b, mask)
            return pulled[:2]
        # So it is where graphs are built for forward products; zeros take neither time nor memory.
        zero = u.new_zeros(())
        return tuple(
            zero.expand(tensor.shape) if wanted else None
            for tensor, wanted in zip((x, weight), needed[:2], strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> Any:
        x, weight = ctx.saved_tensors
        along_x, along_weight = tangents
        moved = None
        if along_x is not None:
            moved = torch.convolution(along_x, weight, None, *ctx.product)
        if along_weight is not None:
            own = torch.convolution(x, along_weight, None, *ctx.product)
            moved = own if moved is None else moved + own
        return moved, None, None, None, None


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
        pulled = rate * (turned - turned.mean(axes, keepdim=True) - normalised * along)
        return pulled, *_along_weights(u, normalised, others, needed)


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
        return scale * u, *_along_weights(u, normalised, others, needed)


def _along_weights(
    u: Tensor, normalised: Tensor, axes: tuple[int, ...], needed: Needed
) -> tuple[Tensor | None, Tensor | None]:
    """Return ∂⟨γ x̂ + β, u⟩/∂(γ, β), which are shared along the axes."""
    return (
        _summed(normalised * u, axes) if needed[1] else None,
        _summed(u, axes) if needed[2] else None,
    )


def _summed(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    # An empty tuple would mean all axes.
    return values.sum(axes) if axes else values


def _convolution(module: Any) -> Rule | None:
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


_RULES: dict[type[nn.Module], Callable[[Any], Rule | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _BatchNorm),
    nn.LayerNorm: lambda module: _LayerNorm(module.normalized_shape, module.eps),
}
"""Class ↦ the rule of one of its modules, None if there is none."""
