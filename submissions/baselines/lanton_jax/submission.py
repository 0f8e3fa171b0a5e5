"""Relative in JAX: LANTON, orthogonalised momentum with noise-adaptive rates, warm-up and cosine."""

from typing import Any

import optax

from llqr.jax.relatives import lanton
from llqr.relatives import NoiseAdaptiveRates
from submissions.baselines.wiring.jax import JaxBaseline


def make(hyperparameters: Any, schedule: Any, workload: Any) -> optax.GradientTransformation:
    """Return the optimizer."""
    return lanton(
        schedule,
        momentum=1.0 - hyperparameters.one_minus_beta1,
        noise=NoiseAdaptiveRates(noise_scale=getattr(hyperparameters, "noise_scale", 1.0)),
        weight_decay=hyperparameters.weight_decay,
    )


_baseline = JaxBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
