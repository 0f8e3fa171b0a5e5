"""Relative in JAX: M-FAC, the inverse Fisher of a window of gradients, warm-up and cosine."""

from typing import Any

import optax

from llqr.jax.relatives import mfac
from submissions.baselines.wiring.jax import JaxBaseline


def make(hyperparameters: Any, schedule: Any, workload: Any) -> optax.GradientTransformation:
    """Return the optimizer."""
    return mfac(
        schedule,
        window=getattr(hyperparameters, "window", 32),
        damping=getattr(hyperparameters, "damping", 1e-3),
        momentum=1.0 - hyperparameters.one_minus_beta1,
        weight_decay=hyperparameters.weight_decay,
    )


_baseline = JaxBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
