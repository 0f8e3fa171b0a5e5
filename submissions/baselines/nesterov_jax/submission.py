"""Baseline in JAX: SGD with Nesterov momentum of optax, warm-up and cosine."""

from typing import Any

import optax

from submissions.baselines.wiring.jax import JaxBaseline


def make(hyperparameters: Any, schedule: Any, workload: Any) -> optax.GradientTransformation:
    """Return the optimizer."""
    return optax.chain(
        optax.add_decayed_weights(hyperparameters.weight_decay),
        optax.sgd(schedule, momentum=1.0 - hyperparameters.one_minus_beta1, nesterov=True),
    )


_baseline = JaxBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
