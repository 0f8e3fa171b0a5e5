"""The relatives of LLQR as ``torch.optim`` optimizers; :mod:`llqr.relatives` has the mathematics.

optimizer = llqr.torch.relatives.LODO(model.named_parameters(), lr=0.1)
"""

from llqr.torch.relatives.gradient_normalized import GradientNormalizedNewton
from llqr.torch.relatives.method import MethodOptimizer
from llqr.torch.relatives.noise import NoiseAdaptive
from llqr.torch.relatives.optimizers import LANTON, LODO, MFAC

__all__ = [
    "LANTON",
    "LODO",
    "MFAC",
    "GradientNormalizedNewton",
    "MethodOptimizer",
    "NoiseAdaptive",
]
