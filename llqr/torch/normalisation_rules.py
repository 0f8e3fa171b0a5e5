"""Normalisations with pullbacks that are differentiable in the cotangent alone.

    f = γ x̂ + β,   x̂ = r (x − μ),   P(u) = (r Π γu, Σ x̂ u, Σ u),   Π v = v − mean v − x̂ mean(x̂ v)

Π leaves out what the statistics μ and r take: means of every example (layer norm) or every channel (batch
norm). It is symmetric and r goes through it, so that

    ∂⟨P(u), v⟩/∂u = γ r Π v_x + x̂ v_γ + v_β

With running statistics Π is the identity.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Needed = tuple[bool, bool, bool]
"""Of which of input, weight and bias a derivative is needed."""

BATCH_NORM_AXES = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}
"""Class ↦ the numbers of axes that it takes."""


class LayerNormRule(NamedTuple):
    """Over the last axes, of this shape."""

    shape: tuple[int, ...]
    epsilon: float

    def takes(self, x: Tensor) -> bool:
        """Return True."""
        return True

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        """Return f, μ and r."""
        return torch.native_layer_norm(x, self.shape, weight, bias, self.epsilon)

    def full(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, rate: Tensor
    ) -> Any:
        """Return the pullback, differentiable in everything."""
        # Only its presence counts, not what it is.
        bias = weight if needed[2] else None
        return torch.ops.aten.native_layer_norm_backward(
            u, x, self.shape, mean, rate, weight, bias, needed
        )

    def linear(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, rate: Tensor
    ) -> Any:
        """Return the pullback, differentiable in u."""
        examples = x.ndim - len(self.shape)
        statistics = _Statistics(rate * (x - mean), rate, tuple(range(examples, x.ndim)))
        return _pullback(u, needed, statistics, weight, tuple(range(examples)))


class BatchNormRule(NamedTuple):
    """With the statistics that a module uses in its mode: of the batch, or running ones."""

    module: Any

    def takes(self, x: Tensor) -> bool:
        """Are there statistics; of other numbers of axes torch's own layer complains."""
        known = x.ndim in BATCH_NORM_AXES[type(self.module)]
        return known and (self._by_batch(x) or self.module.running_mean is not None)

    def value(self, x: Tensor, weight: Any, bias: Any) -> tuple[Tensor, ...]:
        """Return f, and μ and r of the batch or running means and variances."""
        module = self.module
        if self._by_batch(x):
            # Without running statistics, which a curvature pass has no use for.
            return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, module.eps)
        running = module.running_mean, module.running_var
        value = functional.batch_norm(x, *running, weight, bias, False, 0.0, module.eps)
        return value, *running

    def full(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, spread: Tensor
    ) -> Any:
        """Return the pullback, differentiable in everything."""
        by_batch, unknown = self._by_batch(x), (None, None)
        running = unknown if by_batch else (mean, spread)
        of_batch = (mean, spread) if by_batch else unknown
        return torch.ops.aten.native_batch_norm_backward(
            u, x, weight, *running, *of_batch, by_batch, self.module.eps, needed
        )

    def linear(
        self, u: Tensor, needed: Needed, x: Tensor, weight: Any, mean: Tensor, spread: Tensor
    ) -> Any:
        """Return the pullback, differentiable in u."""
        by_batch = self._by_batch(x)
        others = (0, *range(2, x.ndim))
        per_channel = (-1,) + (1,) * (x.ndim - 2)
        rate = spread if by_batch else torch.rsqrt(spread + self.module.eps)
        rate = rate.reshape(per_channel)
        normalised = rate * (x - mean.reshape(per_channel))
        if weight is not None:
            # One per channel goes through the means, as r does.
            rate = rate * weight.reshape(per_channel)
        statistics = _Statistics(normalised, rate, others if by_batch else ())
        return _pullback(u, needed, statistics, None, others)

    def _by_batch(self, x: Tensor) -> bool:
        """Does it normalise by the batch: never by one value per channel, which torch refuses."""
        wanted = self.module.training or self.module.running_mean is None
        return wanted and x.numel() > x.shape[1]


class _Statistics(NamedTuple):
    """x̂, r, and the axes that Π takes means along; none where it is the identity."""

    normalised: Tensor
    rate: Tensor
    axes: tuple[int, ...]


def _pullback(
    u: Tensor,
    needed: Needed,
    statistics: _Statistics,
    weight: Tensor | None,
    others: tuple[int, ...],
) -> tuple[Tensor | None, ...]:
    """Return P(u); γ and β are shared along the other axes."""
    pulled, *shared = _Pullback.apply(u, needed, *statistics, weight, others)  # type: ignore[misc]
    shape = [length for axis, length in enumerate(u.shape) if axis not in others]
    return pulled, *(None if value is None else value.reshape(shape) for value in shared)


class _Pullback(torch.autograd.Function):
    """u ↦ P(u); all but u are constants."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        needed: Needed,
        normalised: Tensor,
        rate: Tensor,
        axes: tuple[int, ...],
        weight: Tensor | None,
        others: tuple[int, ...],
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(normalised, rate, weight)
        ctx.axes = axes
        if not bool(u.any()):
            # So it is where graphs are built for forward products.
            zero = u.new_zeros(())
            shared = [1 if axis in others else length for axis, length in enumerate(u.shape)]
            shapes = (u.shape, shared, shared)
            return tuple(
                zero.expand(shape) if wanted else None
                for shape, wanted in zip(shapes, needed, strict=True)
            )
        turned = u if weight is None else weight * u
        return (
            rate * _projected(turned, normalised, axes) if needed[0] else None,
            _summed(normalised * u, others) if needed[1] else None,
            _summed(u, others) if needed[2] else None,
        )

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> Any:
        normalised, rate, weight = ctx.saved_tensors
        along_x, along_weight, along_bias = tangents
        moved = None
        if along_x is not None:
            moved = rate * _projected(along_x, normalised, ctx.axes)
            moved = moved if weight is None else weight * moved
        if along_weight is not None:
            own = normalised * along_weight
            moved = own if moved is None else moved + own
        if along_bias is not None:
            moved = along_bias.expand_as(normalised) if moved is None else moved + along_bias
        return moved, None, None, None, None, None, None


def _projected(values: Tensor, normalised: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return Π v."""
    if not axes:
        return values
    along = (normalised * values).mean(axes, keepdim=True)
    return torch.addcmul(values - values.mean(axes, keepdim=True), normalised, along, value=-1.0)


def _summed(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    # An empty tuple would mean all axes.
    return values.sum(axes, keepdim=True) if axes else values.clone()
