"""NadamW with warm-up and cosine decay in JAX, the baseline of the targets."""

import functools
from typing import Any

import jax
import optax

from workloads_extra.baselines.common import data_selection, get_batch_size
from workloads_extra.spec import ForwardPassMode

__all__ = ["data_selection", "get_batch_size", "init_optimizer_state", "update_params"]


def init_optimizer_state(
    workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
) -> tuple[Any, Any]:
    """Return the state of the optimizer and the compiled step."""
    warmup = max(int(hyperparameters.warmup_factor * workload.step_hint), 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, hyperparameters.learning_rate, warmup, max(workload.step_hint, warmup + 1)
    )
    optimizer = optax.nadamw(
        schedule,
        b1=1.0 - hyperparameters.one_minus_beta1,
        b2=hyperparameters.beta2,
        weight_decay=hyperparameters.weight_decay,
    )

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(
        params: Any, state: Any, model_state: Any, batch: Any, rng: Any
    ) -> tuple[Any, Any, Any]:
        def mean_loss(params: Any) -> tuple[jax.Array, Any]:
            outputs, new_model_state = workload.model_fn(
                params, batch, model_state, ForwardPassMode.TRAIN, rng, update_batch_norm=True
            )
            loss = workload.loss_fn(batch["targets"], outputs, batch.get("weights"))
            return loss["summed"] / loss["n_valid_examples"], new_model_state

        gradient, new_model_state = jax.grad(mean_loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, new_model_state

    return optimizer.init(model_params), step


def update_params(
    workload: Any,
    current_param_container: Any,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    batch: dict[str, Any],
    loss_type: Any,
    optimizer_state: tuple[Any, Any],
    eval_results: list[Any],
    global_step: int,
    rng: Any,
    train_state: dict[str, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Do one step."""
    state, step = optimizer_state
    params, state, model_state = step(current_param_container, state, model_state, batch, rng)
    return (state, step), params, model_state
