"""The relatives of LLQR as optax transformations; :mod:`llqr.relatives` has the mathematics.

optimizer = llqr.jax.relatives.lodo(0.1)
"""

from llqr.jax.relatives.gradient_normalized import (
    GradientNormalizedState,
    gradient_normalized_newton,
)
from llqr.jax.relatives.method import MethodState, from_method, lanton, lodo, mfac
from llqr.jax.relatives.noise import NoiseAdaptiveState, noise_adaptive

__all__ = [
    "GradientNormalizedState",
    "MethodState",
    "NoiseAdaptiveState",
    "from_method",
    "gradient_normalized_newton",
    "lanton",
    "lodo",
    "mfac",
    "noise_adaptive",
]
