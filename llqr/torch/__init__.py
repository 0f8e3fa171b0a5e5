"""LLQR for PyTorch: an optimizer that wraps any other, and the curvature products under it.

optimizer = llqr.torch.LLQR(base_optimizer, model, loss_fn, config)
loss.backward()
optimizer.step(batch=batch)
"""

try:
    import torch as _torch  # noqa: F401 - the check that it is installed
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        "llqr.torch needs PyTorch, which is not installed: pip install llqr[torch]"
    ) from error

from llqr.torch.backend import TorchBackend
from llqr.torch.linearise import linearise
from llqr.torch.optimizer import LLQR
from llqr.torch.reporting import FitSummary, NonFiniteWarning

__all__ = ["LLQR", "FitSummary", "NonFiniteWarning", "TorchBackend", "linearise"]
