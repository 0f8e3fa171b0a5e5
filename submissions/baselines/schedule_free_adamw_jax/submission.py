"""Baseline in JAX: Schedule-Free AdamW of optax, with warm-up."""

from typing import Any

import optax
import optax.contrib

from submissions.baselines.wiring.common import warmup_steps
from submissions.baselines.wiring.jax import JaxBaseline


def make(hyperparameters: Any, schedule: Any, workload: Any) -> optax.GradientTransformation:
    """Return the optimizer."""
    return optax.contrib.schedule_free_adamw(
        hyperparameters.learning_rate,
        warmup_steps=warmup_steps(workload, hyperparameters),
        b1=1.0 - hyperparameters.one_minus_beta1,
        b2=hyperparameters.beta2,
        weight_decay=hyperparameters.weight_decay,
    )


# Its authors ask for it: what is evaluated is not where gradients are taken.
_baseline = JaxBaseline(
    make, evaluated=optax.contrib.schedule_free_eval_params, present_statistics=True
)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
