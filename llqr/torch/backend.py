"""The array operations of the core over torch tensors (:class:`llqr.backend.Backend`).

Nothing here waits for the device except control flow: ``while_loop`` and ``cond`` read one boolean, and
so does ``eigh``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from llqr._checks import check_positive_int
from llqr.backend import eager_repeat, eager_scan


@dataclass(frozen=True, kw_only=True)
class TorchBackend:
    """Array operations and eager control flow. ``like`` gives the dtype and device of results.

    Attributes:
        map_batch_size: rows that :meth:`map` takes at once, ≥ 1; each takes its own memory.
    """

    compiled: ClassVar[bool] = False

    map_batch_size: int = 1

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("map_batch_size", self.map_batch_size)

    def einsum(self, equation: str, *operands: Tensor) -> Tensor:
        """Return the Einstein summation of the operands."""
        return torch.einsum(equation, *operands)

    def zeros(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return zeros of the given shape."""
        return torch.zeros(tuple(shape), dtype=like.dtype, device=like.device)

    def ones(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return ones of the given shape."""
        return torch.ones(tuple(shape), dtype=like.dtype, device=like.device)

    def asarray(self, value: Any, like: Tensor) -> Tensor:
        """Return a NumPy array, number or tensor with the dtype and device of ``like``."""
        return _tensor(value, like.dtype, like.device)

    def integer(self, value: Any, like: Tensor) -> Tensor:
        """Return a number, or an array of them, as int32 on the device of ``like``."""
        return _tensor(value, torch.int32, like.device)

    def where(self, condition: Tensor, when_true: Any, when_false: Any) -> Tensor:
        """Select element by element; two Python integers give int32, as counters are."""
        if isinstance(when_true, int) and isinstance(when_false, int):
            when_true = torch.full((), when_true, dtype=torch.int32, device=condition.device)
        return torch.where(condition, when_true, when_false)

    def maximum(self, x: Tensor, floor: Tensor | float) -> Tensor:
        """Return the larger of ``x`` and ``floor``; NaN stays NaN."""
        return torch.maximum(x, floor) if isinstance(floor, Tensor) else torch.clamp(x, min=floor)

    def isfinite(self, x: Tensor) -> Tensor:
        """Return a 0-d boolean: is every element finite."""
        if x.numel() == 0:
            return torch.ones((), dtype=torch.bool, device=x.device)
        # NaN goes through the maximum; ten times as fast as torch.isfinite(x).all() on a CPU.
        return x.abs().amax() < math.inf

    def norms(self, values: Sequence[Tensor]) -> Tensor:
        """Return the Euclidean norm of every tensor, [n]."""
        return torch.stack(torch._foreach_norm(list(values)))

    def dots(self, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
        """Return ⟨x, y⟩ of every pair, [n]."""
        pairs = zip(xs, ys, strict=True)
        return torch.stack([torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in pairs])

    def scaled(self, values: Sequence[Tensor], factors: Tensor) -> list[Tensor]:
        """Return every tensor times its factor.

        On the CPU the factors are at hand, and if all are one the tensors themselves are returned.
        """
        if factors.device.type == "cpu" and bool((factors == 1.0).all()):
            return list(values)
        pairs = zip(values, factors.unbind(), strict=True)
        own = [factor.to(value.dtype) for value, factor in pairs]
        return list(torch._foreach_mul(list(values), own))

    def choose(
        self, flags: Tensor, when_true: Sequence[Tensor], when_false: Sequence[Tensor]
    ) -> list[Tensor]:
        """Return, array by array, one of two by a boolean each.

        On the CPU the booleans are at hand and choosing copies nothing; see :meth:`select`.

        Returns:
            The tensors chosen.
        """
        pairs = zip(when_true, when_false, strict=True)
        if flags.device.type == "cpu":
            return [a if flag else b for flag, (a, b) in zip(flags.tolist(), pairs, strict=True)]
        return [torch.where(flags[index], a, b) for index, (a, b) in enumerate(pairs)]

    def sqrt(self, x: Tensor) -> Tensor:
        """Return the square root."""
        return torch.sqrt(x)

    def sigmoid(self, x: Tensor) -> Tensor:
        """Return the logistic function."""
        return torch.sigmoid(x)

    def softmax(self, x: Tensor) -> Tensor:
        """Return the softmax over the last axis."""
        return torch.softmax(x, dim=-1)

    def concatenate(self, arrays: Sequence[Tensor]) -> Tensor:
        """Join tensors along their first axis."""
        return torch.cat(list(arrays))

    def stack(self, arrays: Sequence[Tensor]) -> Tensor:
        """Stack tensors along a new first axis."""
        return torch.stack(list(arrays))

    def eigh(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return ascending eigenvalues [n] and eigenvectors [n, n]; NaN where the iteration fails.

        On float32 matrices with nearly equal eigenvalues LAPACK gives up now and then, and MKL's, where many
        are zero, returns vectors that are not finite without a word; float64 resolves most of them.
        """
        for dtype in (matrix.dtype, torch.float64):
            try:
                values, vectors = torch.linalg.eigh(matrix.to(dtype))
            except torch.linalg.LinAlgError:
                continue
            if bool(self.isfinite(vectors)):
                return values.to(matrix.dtype), vectors.to(matrix.dtype)
        nowhere = torch.full_like(matrix, float("nan"))
        return nowhere[..., 0], nowhere

    def while_loop(self, condition: Callable, body: Callable, state: Any) -> Any:
        """Apply ``body`` while the condition holds; reads one boolean per iteration."""
        while bool(condition(state)):
            state = body(state)
        return state

    def repeat(self, body: Callable, value: Any) -> Any:
        """Apply ``body`` at least once, and again while it asks for that; reads one boolean each time."""
        return eager_repeat(body, value)

    def cond(self, predicate: Tensor, when_true: Callable, when_false: Callable, state: Any) -> Any:
        """Apply one of two functions to the state; reads one boolean."""
        return when_true(state) if bool(predicate) else when_false(state)

    def select(self, predicate: Tensor, when_true: Any, when_false: Any) -> Any:
        """Choose between two equal nested structures.

        On the CPU the boolean is at hand and choosing copies nothing; elsewhere reading it would wait
        for the device, so the choice is made element by element there.

        Returns:
            The structure chosen.
        """
        if predicate.device.type == "cpu":
            return when_true if bool(predicate) else when_false
        return _select(predicate, when_true, when_false)

    def map(self, function: Callable, rows: Tensor) -> Tensor:
        """Apply ``function`` to every row, ``map_batch_size`` rows at a time, and stack the results.

        Where an operation of the function has no batched form, row by row. What the function keeps for later
        calls must not depend on the row.

        Returns:
            The results, stacked along a new first axis.
        """
        if self.map_batch_size > 1 and len(rows) > 1:
            # Cutting into one piece would cost as much again as batching does.
            pieces = self.map_batch_size if len(rows) > self.map_batch_size else None
            batched = torch.vmap(function, chunk_size=pieces)
            try:
                return batched(rows)
            except RuntimeError:
                pass
        return torch.stack([function(row) for row in rows])

    def scan(
        self, body: Callable, state: Any, rows: tuple[Tensor, ...], reverse: bool = False
    ) -> tuple[Any, Tensor | None]:
        """Pass a state along the rows of some tensors."""
        return eager_scan(body, state, rows, reverse, torch.stack)


def _tensor(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float)):
        # A fill runs on the device; torch.tensor would copy from the host and wait.
        return torch.full((), value, dtype=dtype, device=device)
    return torch.tensor(value, dtype=dtype, device=device)


def _select(predicate: Tensor, when_true: Any, when_false: Any) -> Any:
    if isinstance(when_true, Tensor):
        return torch.where(predicate, when_true, when_false)
    if isinstance(when_true, dict):
        return {key: _select(predicate, value, when_false[key]) for key, value in when_true.items()}
    parts = [_select(predicate, a, b) for a, b in zip(when_true, when_false, strict=True)]
    # A NamedTuple takes its fields one by one, a tuple takes a sequence.
    return type(when_true)(*parts) if hasattr(when_true, "_fields") else type(when_true)(parts)
