"""Structures diagonal in a learned Kronecker basis: EKFAC and its separable form.

    ekfac             U X = Q_A (d ∘ (Q_Aᵀ X Q_B)) Q_Bᵀ                    d [m, n]
    separable ekfac   U X = Q_A diag(a) Q_Aᵀ X Q_B diag(b) Q_Bᵀ            d = a bᵀ

Q_A [m, m] and Q_B [n, n] start as the identity and are learned without an orthogonality constraint,
as in the published method. With Y = Q_Aᵀ X Q_B, Z = d ∘ Y and cotangent R the pullback is

    Z̄ = Q_Aᵀ R Q_B,   dd = Z̄ ∘ Y,   Ȳ = d ∘ Z̄,
    dQ_A = R Q_B Zᵀ + X Q_B Ȳᵀ,     dQ_B = Rᵀ Q_A Z + Xᵀ Q_A Ȳ.

An axis longer than ``max_factor_dim`` has no Q (its basis stays the standard one); d covers it.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from llqr._checks import check_positive_int
from llqr.backend import Array, Backend
from llqr.structures.base import (
    AbstractStructure,
    Factors,
    Shape,
    dense_kronecker,
    identity,
)
from llqr.structures.elementwise import Diagonal


def _times(x: Array, basis: Array | None) -> Array:
    """Return X Q; no basis means the identity."""
    return x if basis is None else x @ basis


@dataclass(frozen=True, kw_only=True)
class AbstractRotated(AbstractStructure):
    """The part both forms share: everything but how d is parametrised.

    Attributes:
        max_factor_dim: longest axis that gets a learned basis Q.
    """

    max_factor_dim: int = 1024

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("max_factor_dim", self.max_factor_dim)

    @property
    def linear_in_factors(self) -> bool:
        """The bases enter twice, so no."""
        return False

    def resolve(self, shape: Shape) -> AbstractStructure:
        """Fall back to a diagonal for vectors and scalars."""
        return self if len(shape) == 2 else Diagonal()

    def factor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of the bases that exist and of the scales."""
        bases = {
            name: (dim, dim)
            for name, dim in zip(("Q_A", "Q_B"), shape, strict=True)
            if dim <= self.max_factor_dim
        }
        return {**bases, **self._scale_shapes(shape)}

    def init(self, backend: Backend, shape: Shape, like: Array) -> Factors:
        """Return identity bases and unit scales."""
        return {
            name: identity(backend, factor[0], like)
            if name.startswith("Q_")
            else backend.ones(factor, like)
            for name, factor in self.factor_shapes(shape).items()
        }

    @abc.abstractmethod
    def _scale_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Return the shapes of the factors that make up d."""

    @abc.abstractmethod
    def _scale(self, factors: Factors) -> Array:
        """Return d [m, n]."""

    @abc.abstractmethod
    def _scale_pullback(self, factors: Factors, cotangent: Array) -> Factors:
        """Return the gradient in d's own factors from the cotangent of d [m, n]."""

    @abc.abstractmethod
    def _scale_pushforward(self, factors: Factors, tangent: Factors) -> Array:
        """Return ḋ [m, n]."""

    def apply(self, backend: Backend, factors: Factors, x: Array) -> Array:
        """Return Q_A (d ∘ (Q_Aᵀ X Q_B)) Q_Bᵀ."""
        return _out_of_basis(factors, self._scale(factors) * _into_basis(factors, x))

    def pullback(self, backend: Backend, factors: Factors, x: Array, cotangent: Array) -> Factors:
        """Return the gradients of the module docstring."""
        scale = self._scale(factors)
        rotated, rotated_bar = _into_basis(factors, x), _into_basis(factors, cotangent)
        scaled, scaled_bar = scale * rotated, scale * rotated_bar
        result = self._scale_pullback(factors, rotated_bar * rotated)
        left, right = factors.get("Q_A"), factors.get("Q_B")
        if left is not None:
            result["Q_A"] = _times(cotangent, right) @ scaled.T + _times(x, right) @ scaled_bar.T
        if right is not None:
            result["Q_B"] = _times(cotangent.T, left) @ scaled + _times(x.T, left) @ scaled_bar
        return {name: result[name] for name in factors}

    def pushforward(self, backend: Backend, factors: Factors, tangent: Factors, x: Array) -> Array:
        """Return the derivative of ``apply`` by the product rule over d and the four bases."""
        scale, rotated = self._scale(factors), _into_basis(factors, x)
        scaled = scale * rotated
        inner = self._scale_pushforward(factors, tangent) * rotated
        for name in ("Q_A", "Q_B"):
            if name in factors:
                moved = {**factors, name: tangent[name]}
                inner = inner + scale * _into_basis(moved, x)
        result = _out_of_basis(factors, inner)
        for name in ("Q_A", "Q_B"):
            if name in factors:
                result = result + _out_of_basis({**factors, name: tangent[name]}, scaled)
        return result

    def to_dense(self, backend: Backend, factors: Factors, shape: Shape) -> Array:
        """Return (Q_A ⊗ Q_B) diag(vec d) (Q_A ⊗ Q_B)ᵀ."""
        scale = self._scale(factors)
        bases = [
            factors.get(name, identity(backend, dim, scale))
            for name, dim in zip(("Q_A", "Q_B"), shape, strict=True)
        ]
        basis = dense_kronecker(backend, *bases)
        return (basis * scale.reshape((1, -1))) @ basis.T

    def _capped(self, shape: Shape) -> str:
        missing = [name for name in ("Q_A", "Q_B") if name not in self.factor_shapes(shape)]
        return f" (no {', '.join(missing)}: above cap)" if missing else ""


def _into_basis(factors: Factors, x: Array) -> Array:
    """Return Q_Aᵀ X Q_B."""
    left = factors.get("Q_A")
    return _times(x if left is None else left.T @ x, factors.get("Q_B"))


def _out_of_basis(factors: Factors, x: Array) -> Array:
    """Return Q_A X Q_Bᵀ."""
    left, right = factors.get("Q_A"), factors.get("Q_B")
    x = x if left is None else left @ x
    return x if right is None else x @ right.T


@dataclass(frozen=True, kw_only=True)
class EKFAC(AbstractRotated):
    """Full d [m, n] in a learned Kronecker basis."""

    def _scale_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"d": shape}

    def _scale(self, factors: Factors) -> Array:
        return factors["d"]

    def _scale_pullback(self, factors: Factors, cotangent: Array) -> Factors:
        return {"d": cotangent}

    def _scale_pushforward(self, factors: Factors, tangent: Factors) -> Array:
        return tangent["d"]

    def describe(self, shape: Shape) -> str:
        """Return the report text, naming axes without a basis."""
        return "ekfac" + self._capped(shape)


@dataclass(frozen=True, kw_only=True)
class SeparableEKFAC(AbstractRotated):
    """d = a bᵀ in a learned Kronecker basis."""

    def _scale_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"a": (shape[0],), "b": (shape[1],)}

    def _scale(self, factors: Factors) -> Array:
        return factors["a"].reshape((-1, 1)) * factors["b"].reshape((1, -1))

    def _scale_pullback(self, factors: Factors, cotangent: Array) -> Factors:
        return {"a": cotangent @ factors["b"], "b": cotangent.T @ factors["a"]}

    def _scale_pushforward(self, factors: Factors, tangent: Factors) -> Array:
        return tangent["a"].reshape((-1, 1)) * factors["b"].reshape((1, -1)) + factors["a"].reshape(
            (-1, 1)
        ) * tangent["b"].reshape((1, -1))

    def describe(self, shape: Shape) -> str:
        """Return the report text, naming axes without a basis."""
        return "separable ekfac" + self._capped(shape)
