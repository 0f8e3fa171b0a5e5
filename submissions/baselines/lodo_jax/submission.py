"""Relative in JAX: LODO, a preconditioner learned on the hypergradient, warm-up and cosine."""

from typing import Any

import optax

from llqr import structures
from llqr.jax.relatives import lodo
from submissions.baselines.wiring.jax import JaxBaseline


def make(hyperparameters: Any, schedule: Any, workload: Any) -> optax.GradientTransformation:
    """Return the optimizer."""
    return lodo(
        schedule,
        # Per tensor: 128 numbers per parameter are too many for the largest, which get a diagonal.
        structure=structures.LODO(per="parameter", max_size=2**16),
        momentum=1.0 - hyperparameters.one_minus_beta1,
        meta_learning_rate=getattr(hyperparameters, "meta_learning_rate", 1e-3),
        weight_decay=hyperparameters.weight_decay,
    )


_baseline = JaxBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
