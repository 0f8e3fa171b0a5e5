"""Baseline in JAX: Prodigy of optax, warm-up and cosine; the learning rate is a factor near 1."""

from typing import Any

import optax
import optax.contrib

from submissions.baselines.wiring.jax import JaxBaseline


def make(hyperparameters: Any, schedule: Any, workload: Any) -> optax.GradientTransformation:
    """Return the optimizer."""
    return optax.contrib.prodigy(
        schedule,
        betas=(1.0 - hyperparameters.one_minus_beta1, hyperparameters.beta2),
        weight_decay=hyperparameters.weight_decay,
        safeguard_warmup=True,
    )


_baseline = JaxBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
