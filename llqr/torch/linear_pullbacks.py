"""Layers whose forward products cost what they should.

Forward products J v are taken by double backward (:mod:`llqr.torch.linearisation`): a layer's pullback
P(u) = ∂⟨f(x, w), u⟩/∂(x, w) is linear in u, and what is wanted is its derivative along u,

    ∂⟨P(u), v⟩/∂u = J_f v.

torch's second derivatives of convolutions and normalisations compute those in x and w as well, whether asked
for or not: of a convolution four products instead of two, of a layer normalisation some ninety operations
instead of twelve. While :meth:`LinearPullbacks.switched_on` is active, pullbacks are those of
:mod:`llqr.torch.layer_rules`, which depend on u alone. At other times, and in all other derivatives, the
layers are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llqr.torch.layer_rules import Rule, rule_of


class LinearPullbacks:
    """What stands for the layers of a model, and the switch for pullbacks that depend on u alone.

    Attributes:
        on: are they wanted now.
    """

    def __init__(self) -> None:
        self.on = False

    @contextmanager
    def switched_on(self) -> Iterator[None]:
        """Leave out what second derivatives in x and w would need, in graphs that are built now."""
        self.on = True
        try:
            yield
        finally:
            self.on = False

    def forward_of(self, module: nn.Module) -> Callable[..., Tensor] | None:
        """Return what stands for ``module.forward``, None if torch's own has to do.

        Args:
            module: of exactly one of torch's classes, since a subclass may compute anything.
        """
        rule = rule_of(module)
        if rule is None:
            return None

        def forward(input: Tensor, *rest: Any, **named: Any) -> Tensor:
            tensors = input, module.weight, module.bias
            if rest or named or not (_supported(*tensors) and rule.takes(input)):
                return type(module).forward(module, input, *rest, **named)
            if not torch.is_grad_enabled():
                return rule.value(*tensors)[0]
            return _Layer.apply(self, rule, *tensors)  # type: ignore[return-value]

        return forward


class _Layer(torch.autograd.Function):
    """f(x, w, b) by a rule."""

    @staticmethod
    def forward(
        ctx: Any, switch: LinearPullbacks, rule: Rule, x: Tensor, weight: Any, bias: Any
    ) -> Tensor:
        value, *kept = rule.value(x, weight, bias)
        # What is computed again during a backward pass (checkpoints) may differentiate itself in there.
        ctx.switch = None if switch.on else switch
        ctx.rule = rule
        ctx.save_for_backward(x, weight, *kept)
        return value

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        rule, saved, needed = ctx.rule, ctx.saved_tensors, ctx.needs_input_grad[2:]
        if ctx.switch is None or not ctx.switch.on:
            return None, None, *rule.full(*cotangents, needed, *saved)
        constants = [None if tensor is None else tensor.detach() for tensor in saved]
        return None, None, *rule.linear(*cotangents, needed, *constants)


def _supported(*tensors: Tensor | None) -> bool:
    """Are the tensors of one dtype in which products are taken, outside of transforms of functions."""
    dtypes = {tensor.dtype for tensor in tensors if tensor is not None}
    # Kernels for shorter numbers compute in float32 inside. torch asks in the same way before it refuses.
    plain = not torch._C._are_functorch_transforms_active()
    return plain and len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64}
