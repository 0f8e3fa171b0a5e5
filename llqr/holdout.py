"""Judging a fit by examples that its direction has not seen.

A gradient g, and the step sizes fitted for it, know the examples C of the curvature batch: the loss on C
falls along U g even where the step follows nothing but the noise of a few examples. With A every second
example of C, and ψ the share of g's examples that are in C,

    g' = g + ψ (g_A − g_C)

is g with the contribution of C replaced by that of A (exact for a mean over examples, whatever their
weights). A step along g' has not seen the rest of C, so the loss on all of C is partly out of sample. Factors
that raise it are not trusted (:mod:`llqr.ridge`).

It takes g, g_A and g_C of one function. With BatchNorm each has the statistics of its own examples, which is
near enough; running statistics, while training normalises by the batch, are not (random problems then
hardly trained at all).

g_A − g_C also tells how noisy g_C is (:mod:`llqr.ridge`).
"""

from __future__ import annotations

from dataclasses import dataclass

from llqr import tensors
from llqr.backend import Tensors
from llqr.linearisation import LinearisedProblem


@dataclass(frozen=True)
class FitBatch:
    """The examples C of a fit.

    Attributes:
        problem: the model on C.
        seen: the model on A, None if nothing is held out.
        share: ψ in (0, 1].
    """

    problem: LinearisedProblem
    seen: LinearisedProblem | None = None
    share: float = 1.0  # ψ

    def seen_gradient(self, like: Tensors) -> Tensors | None:
        """Return g_A, None without A; ``like`` has the parameters' names and shapes."""
        if self.seen is None:
            return None
        return self.seen.loss_and_gradient(tensors.scale(0.0, like))[1]

    def partly_unseen(self, gradient: Tensors, seen: Tensors, whole: Tensors) -> Tensors:
        """Return g'.

        Args:
            gradient: g, of the training batch.
            seen: g_A, from :meth:`seen_gradient`.
            whole: g_C.
        """
        return tensors.add_scaled(gradient, self.share, tensors.add_scaled(seen, -1.0, whole))
