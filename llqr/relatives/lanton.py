"""LANTON: a step of fixed length per layer along its momentum, with noise-adaptive layerwise rates.

    B ← β₁ B + (1 − β₁) G,   θ_ℓ ← θ_ℓ − η rate_ℓ O_ℓ(B_ℓ)

O_ℓ is the linear minimisation oracle of the layer's geometry (:mod:`llqr.relatives.geometry`; for matrices
the orthogonalised momentum, as in Muon) and rate_ℓ comes from the noise (:mod:`llqr.relatives.noise`).

Source: "Noise-Adaptive Layerwise Learning Rates" (arXiv 2510.14009). Memory: 2n (momentum and previous
gradient). Cost per step and matrix [m, n], m ≤ n: two times 5 Newton-Schulz iterations, about
10 (4 m² n + 2 m³) operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

from llqr import tensors
from llqr._checks import check_fraction
from llqr.backend import Array, Backend, Tensors
from llqr.relatives.base import AbstractMethod, Rates, Shapes, shapes_of
from llqr.relatives.geometry import AbstractGeometry, Euclidean, Spectral
from llqr.relatives.noise import NoiseAdaptiveRates
from llqr.structures.base import Shape
from llqr.structures.blocks import Fold, fold_output_last, fold_shape

GeometryChoice = Callable[[str, Shape], AbstractGeometry]
"""A function of parameter name and shape."""


def spectral_for_matrices(name: str, shape: Shape) -> AbstractGeometry:
    """Return :class:`Spectral` for two and more axes, else :class:`Euclidean`."""
    return Spectral() if len(shape) >= 2 and prod(shape) > 0 else Euclidean()


@dataclass(frozen=True, kw_only=True)
class LANTON(AbstractMethod):
    """Normalised momentum with noise-adaptive rates; every parameter is a layer.

    Attributes:
        momentum: β₁, in [0, 1).
        noise: how noise sets the rates.
        geometry: which norm a parameter is stepped in; weights of more than two axes are folded.
        fold: where they fold.
    """

    momentum: float = 0.95  # β₁
    noise: NoiseAdaptiveRates = field(default_factory=NoiseAdaptiveRates)
    geometry: GeometryChoice = field(default=spectral_for_matrices, repr=False)
    fold: Fold = field(default=fold_output_last, repr=False)

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_fraction("momentum", self.momentum, 0.95)
        if not isinstance(self.noise, NoiseAdaptiveRates):
            raise TypeError(
                f"noise must be a NoiseAdaptiveRates, got {self.noise!r}; pass NoiseAdaptiveRates()"
            )

    def init(self, backend: Backend, like: Tensors) -> dict[str, Any]:
        """Return no momentum and no noise."""
        some = next(iter(like.values()))
        return {
            "momentum": tensors.scale(0.0, like),
            "previous": tensors.scale(0.0, like),
            "noise": {name: backend.zeros((), value) for name, value in like.items()},
            "step": backend.integer(0, some),
        }

    def update(
        self, backend: Backend, state: dict[str, Any], gradient: Tensors, rates: Rates
    ) -> tuple[Tensors, dict[str, Any]]:
        """Return η rate_ℓ O_ℓ; see :class:`AbstractMethod`."""
        geometries = self.geometries(shapes_of(gradient))
        squares = {}
        for name, geometry in geometries.items():
            change = self._folded(name, gradient[name] - state["previous"][name])
            squares[name] = geometry.dual_norm(backend, change) ** 2
        noise = self.noise.estimate(backend, state["noise"], squares, state["step"] > 0)
        relative = self.noise.rates(
            backend, noise, {name: geometry.group for name, geometry in geometries.items()}
        )
        beta = float(self.momentum)
        momentum = tensors.map_tensors(
            lambda m, g: beta * m + (1.0 - beta) * g, state["momentum"], gradient
        )
        step = {}
        for name, geometry in geometries.items():
            own = momentum[name]
            direction = geometry.direction(backend, self._folded(name, own)).reshape(own.shape)
            step[name] = backend.asarray(rates[name], own) * relative[name] * direction
        return step, {
            "momentum": momentum,
            # A copy: what the caller passes may be a buffer that the next backward pass fills.
            "previous": tensors.scale(1.0, gradient),
            "noise": noise,
            "step": state["step"] + 1,
        }

    def geometries(self, shapes: Shapes) -> dict[str, AbstractGeometry]:
        """Return the geometry of every parameter.

        Raises:
            TypeError: if ``geometry`` returns something else.
        """
        found = {name: self.geometry(name, shape) for name, shape in shapes.items()}
        for name, own in found.items():
            if not isinstance(own, AbstractGeometry):
                raise TypeError(
                    f"geometry for parameter {name!r} must be an object such as Spectral(), got "
                    f"{own!r}; return one from the function of name and shape"
                )
        return found

    def state_size(self, shapes: Shapes) -> int:
        """Return 2n, one number per layer and the counter."""
        return 2 * sum(prod(shape) for shape in shapes.values()) + len(shapes) + 1

    def _folded(self, name: str, value: Array) -> Array:
        return value.reshape(fold_shape(name, tuple(value.shape), self.fold))
