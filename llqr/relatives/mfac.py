"""M-FAC: products with the inverse of the empirical Fisher of the last m gradients, without the matrix.

    H = λ I + (1/m) Σ_k g_k g_kᵀ,   G = [g_1 … g_m]ᵀ [m, d],   A = mλ I + G Gᵀ [m, m]

    H⁻¹ x = (x − Gᵀ A⁻¹ G x) / λ         (Woodbury)
    H⁻¹ g_k = m Gᵀ A⁻¹ e_k               (g_k in the window: nothing cancels)

The dynamic algorithm: a new gradient takes the place of the oldest, which changes one row and column of A.
A⁻¹ follows in O(m²) by taking that row out (a Schur complement) and the new one in (a bordered inverse), and
one step of iterative refinement with A, which is kept as well, removes what rounding leaves. Every m-th step
A⁻¹ is computed anew, O(m³), so that errors cannot accumulate: O(dm + m²) per step all in all.

Source: "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information" (arXiv 2107.03356), whose
algorithm for the same window has O(dm + m³) per step. Memory: dm + 2m² numbers, 4 GB per million parameters
in float32 with the paper's m = 1024.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from llqr import tensors
from llqr._checks import check_fraction, check_positive, check_positive_int
from llqr.backend import Array, Backend, Tensors
from llqr.relatives.base import AbstractMethod, Rates, Shapes
from llqr.structures.base import identity


@dataclass(frozen=True, kw_only=True)
class MFAC(AbstractMethod):
    """θ ← θ − α v,   v ← μ v + H⁻¹ g, with H of a window that holds g already.

    Attributes:
        window: m ≥ 1, gradients in H; those not seen yet count as zero.
        damping: λ > 0. Steps along directions that the window does not hold are 1/λ of the gradient.
        momentum: μ of the preconditioned gradients, in [0, 1).
    """

    window: int = 1024  # m
    damping: float = 1e-5  # λ
    momentum: float = 0.0  # μ

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("window", self.window)
        check_positive("damping", self.damping, 1e-5)
        check_fraction("momentum", self.momentum, 0.9)

    @property
    def ridge(self) -> float:
        """mλ, the smallest eigenvalue that A can have."""
        return self.window * float(self.damping)

    def init(self, backend: Backend, like: Tensors) -> dict[str, Any]:
        """Return an empty window: G = 0."""
        some = next(iter(like.values()))
        unit = identity(backend, self.window, some)
        state = {
            "gradients": {
                name: backend.zeros((self.window, prod(value.shape)), value)
                for name, value in like.items()
            },
            "matrix": self.ridge * unit,  # A
            "inverse": unit / self.ridge,  # A⁻¹
            "step": backend.integer(0, some),
        }
        return state | ({"velocity": tensors.scale(0.0, like)} if self.momentum else {})

    def update(
        self, backend: Backend, state: dict[str, Any], gradient: Tensors, rates: Rates
    ) -> tuple[Tensors, dict[str, Any]]:
        """Take the gradient into the window and return α v; see :class:`AbstractMethod`."""
        state = self.observe(backend, state, gradient)
        position = (state["step"] - 1) % self.window
        unit = self._unit(backend, position, state["inverse"])
        weights = self._solve(state, unit)
        direction = {
            name: (float(self.window) * (weights @ rows)).reshape(gradient[name].shape)
            for name, rows in state["gradients"].items()
        }
        if self.momentum:
            direction = tensors.add_scaled(direction, float(self.momentum), state["velocity"])
            state = {**state, "velocity": direction}
        step = {
            name: backend.asarray(rates[name], value) * value for name, value in direction.items()
        }
        return step, state

    def observe(self, backend: Backend, state: dict[str, Any], gradient: Tensors) -> dict[str, Any]:
        """Return the state with the gradient in the place of the oldest one: O(dm + m²)."""
        position = state["step"] % self.window
        rows = {
            name: _with_row(own, position, gradient[name].reshape((-1,)))
            for name, own in state["gradients"].items()
        }
        dots = sum(own @ gradient[name].reshape((-1,)) for name, own in rows.items())
        unit = self._unit(backend, position, state["matrix"])
        dots = dots + self.ridge * unit
        others = 1.0 - unit
        outer = backend.einsum("i,j->ij", unit, dots)
        kept = state["matrix"] * others.reshape((-1, 1)) * others.reshape((1, -1))
        matrix = kept + outer + outer.T - (dots * unit).sum() * outer_of(backend, unit, unit)
        step = state["step"] + 1
        inverse = backend.cond(
            step % self.window == 0,
            lambda pair: self._fresh_inverse(backend, pair[0]),
            lambda pair: self._moved_inverse(backend, pair[1], unit, dots),
            (matrix, state["inverse"]),
        )
        return {**state, "gradients": rows, "matrix": matrix, "inverse": inverse, "step": step}

    def inverse_product(self, backend: Backend, state: dict[str, Any], x: Tensors) -> Tensors:
        """Return H⁻¹ x for any x: O(dm + m²)."""
        rows = state["gradients"]
        projected = sum(own @ x[name].reshape((-1,)) for name, own in rows.items())
        weights = self._solve(state, projected)
        return {
            name: (x[name] - (weights @ own).reshape(x[name].shape)) / float(self.damping)
            for name, own in rows.items()
        }

    def state_size(self, shapes: Shapes) -> int:
        """Return dm + 2m² + 1, and d with momentum."""
        parameters = sum(prod(shape) for shape in shapes.values())
        copies = self.window + (1 if self.momentum else 0)
        return copies * parameters + 2 * self.window**2 + 1

    def _solve(self, state: dict[str, Any], right: Array) -> Array:
        """Return A⁻¹ right, refined once."""
        guess = state["inverse"] @ right
        return guess + state["inverse"] @ (right - state["matrix"] @ guess)

    def _moved_inverse(self, backend: Backend, inverse: Array, unit: Array, column: Array) -> Array:
        """Return A⁻¹ after row and column ``position`` of A became ``column``."""
        old = inverse @ unit
        without = inverse - outer_of(backend, old, old) / (old * unit).sum()
        # Rounding leaves something in the row that is out now.
        others = 1.0 - unit
        without = without * others.reshape((-1, 1)) * others.reshape((1, -1))
        beside = column * others
        moved = without @ beside
        corner = (column * unit).sum() - (beside * moved).sum()
        # What is left of a gradient outside the span of the others, plus the ridge.
        corner = backend.maximum(corner, self.ridge)
        border = moved - unit
        return without + outer_of(backend, border, border) / corner

    def _fresh_inverse(self, backend: Backend, matrix: Array) -> Array:
        values, vectors = backend.eigh(matrix)
        return (vectors / backend.maximum(values, self.ridge)) @ vectors.T

    def _unit(self, backend: Backend, position: Array, like: Array) -> Array:
        index = backend.integer(np.arange(self.window), like)
        return backend.asarray(index == position, like)


def outer_of(backend: Backend, x: Array, y: Array) -> Array:
    """Return x yᵀ."""
    return backend.einsum("i,j->ij", x, y)


def _with_row(rows: Array, index: Array, row: Array) -> Array:
    """Return the rows with one replaced: in place where arrays are mutable, which spares a window."""
    if hasattr(rows, "at"):
        return rows.at[index].set(row)
    rows[index] = row
    return rows
