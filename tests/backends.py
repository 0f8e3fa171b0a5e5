"""Array backends for tests that run on all of them; a framework that is missing is skipped."""

import importlib.util

import numpy as np
import pytest

from llqr.backend import NumpyBackend

BACKENDS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name != "numpy" and importlib.util.find_spec(name) is None,
            reason=f"{name} is not installed",
        ),
    )
    for name in ("numpy", "torch", "jax")
]
FRAMEWORKS = BACKENDS[1:]


def make(name):
    """Return (backend, to this framework's array, to a NumPy array)."""
    if name == "numpy":
        return NumpyBackend(), np.asarray, np.asarray
    if name == "torch":
        import torch

        from llqr.torch.backend import TorchBackend

        return TorchBackend(), torch.tensor, lambda x: x.detach().numpy()
    import jax.numpy as jnp

    from llqr.jax.backend import JaxBackend

    return JaxBackend(), jnp.asarray, np.asarray
