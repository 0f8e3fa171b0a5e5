"""Methods that learn or estimate a preconditioner in other ways than LLQR, to compare and to combine.

* :class:`LODO`: a preconditioner learned on the hypergradient (arXiv 2210.06171);
* :class:`MFAC`: the inverse of the empirical Fisher of a window of gradients (arXiv 2107.03356);
* :class:`LANTON`: orthogonalised momentum with noise-adaptive layerwise rates (arXiv 2510.14009), whose rates
  alone are :class:`NoiseAdaptiveRates`;
* :class:`GradientNormalizedNewton`: Newton steps damped by the gradient's norm (arXiv 2506.13710).

Here stands the mathematics, for any :class:`llqr.backend.Backend`. The optimizers are
:mod:`llqr.torch.relatives` and :mod:`llqr.jax.relatives`.
"""

from llqr.relatives.base import AbstractMethod
from llqr.relatives.geometry import AbstractGeometry, Euclidean, Sign, Spectral
from llqr.relatives.gradient_normalized import GradientNormalizedNewton
from llqr.relatives.lanton import LANTON
from llqr.relatives.lodo import LODO
from llqr.relatives.mfac import MFAC
from llqr.relatives.noise import NoiseAdaptiveRates

__all__ = [
    "LANTON",
    "LODO",
    "MFAC",
    "AbstractGeometry",
    "AbstractMethod",
    "Euclidean",
    "GradientNormalizedNewton",
    "NoiseAdaptiveRates",
    "Sign",
    "Spectral",
]
