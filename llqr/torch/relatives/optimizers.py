"""LODO, M-FAC and LANTON with their settings as keyword arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from llqr import relatives
from llqr.structures import fold_output_first
from llqr.torch.relatives.method import MethodOptimizer


class LODO(MethodOptimizer):
    """Preconditioner learned on the hypergradient; see :class:`llqr.relatives.LODO` for cost and memory.

    Args:
        params: as for :class:`MethodOptimizer`.
        lr: α₀, the learning rate of the first step, at which U = I.
        weight_decay: decoupled, ≥ 0.
        **settings: of :class:`llqr.relatives.LODO`: ``structure``, ``momentum``, ``meta_learning_rate``, ….
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 0.1,
        *,
        weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        method = relatives.LODO(**{"fold": fold_output_first, **settings})
        super().__init__(params, method, lr=lr, weight_decay=weight_decay)


class MFAC(MethodOptimizer):
    """Inverse empirical Fisher of a window; see :class:`llqr.relatives.MFAC` for cost and memory.

    Args:
        params: as for :class:`MethodOptimizer`.
        lr: learning rate.
        weight_decay: decoupled, ≥ 0.
        **settings: of :class:`llqr.relatives.MFAC`: ``window``, ``damping``, ``momentum``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        *,
        weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(params, relatives.MFAC(**settings), lr=lr, weight_decay=weight_decay)


class LANTON(MethodOptimizer):
    """Orthogonalised momentum with noise-adaptive rates; see :class:`llqr.relatives.LANTON`.

    Args:
        params: as for :class:`MethodOptimizer`.
        lr: learning rate of the layer with the least noise.
        weight_decay: decoupled, ≥ 0.
        **settings: of :class:`llqr.relatives.LANTON`: ``momentum``, ``noise``, ``geometry``, ``fold``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 3e-3,
        *,
        weight_decay: float = 0.0,
        **settings: Any,
    ) -> None:
        method = relatives.LANTON(**{"fold": fold_output_first, **settings})
        super().__init__(params, method, lr=lr, weight_decay=weight_decay)
