"""Functions of the plane with a known minimum, as one or two layers, for either framework.

Every function takes the framework's namespace (``jax.numpy`` or ``torch``), the constants [batch, constants]
that the first layer receives, and the parameters of its layers; it returns outputs [batch, outputs].
"""

import math
from typing import Any


def rosenbrock_residuals(xp: Any, constants: Any, layers: list[Any]) -> Any:
    """Return (a − u₁, √b (u₂ − u₁²)), whose squared norm is R_{a,b}(u)."""
    a, b = constants[:, 0], constants[:, 1]
    (u,) = layers
    return xp.stack([a - u[0], xp.sqrt(b) * (u[1] - u[0] ** 2)], -1)


def rosenbrock_two_layers(xp: Any, constants: Any, layers: list[Any]) -> Any:
    """Return R_{a,b}(u) from a layer with u₁ and a layer with u₂.

    The first maps (a, b) to x = (a² − 2au₁, u₁², b), the second x to x₁ + x₂ + x₃ (u₂ − x₂)².
    """
    a, b = constants[:, 0], constants[:, 1]
    u1, u2 = (layer[0] for layer in layers)
    x1, x2, x3 = a**2 - 2 * a * u1, u1**2 + 0 * a, b
    return xp.stack([x1 + x2 + x3 * (u2 - x2) ** 2], -1)


def ackley(xp: Any, constants: Any, layers: list[Any]) -> Any:
    """Return h (1 − exp(−s √(|u|²/2))) + e − exp((cos 2πu₁ + cos 2πu₂)/2), 0 at the origin."""
    height, slope = constants[:, 0], constants[:, 1]
    (u,) = layers
    # The square root has no derivative at the minimum; the shift is below the resolution of float32.
    radius = xp.sqrt(0.5 * (u**2).sum() + 1e-20)
    waves = xp.exp(0.5 * xp.cos(2 * math.pi * u).sum())
    return xp.stack([height * (1 - xp.exp(-slope * radius)) + math.e - waves], -1)


def goldstein_price(xp: Any, constants: Any, layers: list[Any]) -> Any:
    """Return the Goldstein–Price polynomial, 3 at (0, −1), with three more local minima."""
    (u,) = layers
    x, y = u[0], u[1]
    square1 = (x + y + 1) ** 2
    factor1 = 19 - 14 * x + 3 * x**2 - 14 * y + 6 * x * y + 3 * y**2
    square2 = (2 * x - 3 * y) ** 2
    factor2 = 18 - 32 * x + 12 * x**2 + 48 * y - 36 * x * y + 27 * y**2
    value = (1 + square1 * factor1) * (30 + square2 * factor2)
    return xp.stack([constants[:, 0] * value], -1)
