"""Layers with pullbacks that are differentiable in the cotangent alone, and the convolutions among them.

For f(x, w) = B(x, w) + b and its pullback P(u) = ∂⟨f, u⟩/∂(x, w, b):

    ∂⟨P(u), v⟩/∂u = B(v_x, w) + B(x, v_w) + v_b

:mod:`llqr.torch.normalisation_rules` has the normalisations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from llqr.torch.normalisation_rules import (
    BATCH_NORM_AXES,
    BatchNormRule,
    LayerNormRule,
    Needed,
)


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
        along_bias = u.sum((0, *range(2, u.ndim))) if needed[2] else None
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
    **dict.fromkeys(BATCH_NORM_AXES, BatchNormRule),
    nn.LayerNorm: lambda module: LayerNormRule(module.normalized_shape, module.eps),
}
"""Class ↦ the rule of one of its modules, None if there is none."""
