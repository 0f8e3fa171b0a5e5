"""The JAX shell: an optax transformation around any other, and linearised models for it.

    optimizer = llqr.jax.llqr(optax.adam(1e-3), outputs_fn=..., loss_fn=..., config=config)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params, batch=batch)

Source: arXiv 2605.04230; see :mod:`llqr` for the mathematics, which is written once for all frameworks.
"""

try:
    import jax as _jax  # noqa: F401
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"llqr.jax needs jax and optax, but {error.name} is not installed; run `pip install llqr[jax]`",
        name=error.name,
    ) from error

from llqr.jax.backend import JaxBackend
from llqr.jax.linearise import linearise
from llqr.jax.naming import named_leaves
from llqr.jax.optimizer import LLQRState, llqr
from llqr.jax.state import check_state, report, summary

__all__ = [
    "JaxBackend",
    "LLQRState",
    "check_state",
    "linearise",
    "llqr",
    "named_leaves",
    "report",
    "summary",
]
