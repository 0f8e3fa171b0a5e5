"""NadamW with warm-up and cosine decay in PyTorch, the counterpart of the baseline in JAX."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import LambdaLR

from workloads_extra.baselines.common import data_selection, get_batch_size, learning_rate_factor
from workloads_extra.spec import ForwardPassMode

__all__ = ["data_selection", "get_batch_size", "init_optimizer_state", "update_params"]


def init_optimizer_state(
    workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
) -> dict[str, Any]:
    """Return the optimizer and its schedule."""
    optimizer = torch.optim.NAdam(
        model_params.parameters(),
        lr=hyperparameters.learning_rate,
        betas=(1.0 - hyperparameters.one_minus_beta1, hyperparameters.beta2),
        weight_decay=hyperparameters.weight_decay,
        momentum_decay=0.0,
        decoupled_weight_decay=True,
    )
    warmup = max(int(hyperparameters.warmup_factor * workload.step_hint), 1)
    factor = partial(learning_rate_factor, warmup_steps=warmup, total_steps=workload.step_hint)
    return {"optimizer": optimizer, "scheduler": LambdaLR(optimizer, factor)}


def update_params(
    workload: Any,
    current_param_container: Any,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    batch: dict[str, Any],
    loss_type: Any,
    optimizer_state: dict[str, Any],
    eval_results: list[Any],
    global_step: int,
    rng: Any,
    train_state: dict[str, Any] | None = None,
) -> tuple[Any, Any, Any]:
    """Do one step."""
    optimizer = optimizer_state["optimizer"]
    optimizer.zero_grad()
    outputs, model_state = workload.model_fn(
        current_param_container,
        batch,
        model_state,
        ForwardPassMode.TRAIN,
        rng,
        update_batch_norm=True,
    )
    loss = workload.loss_fn(batch["targets"], outputs, batch.get("weights"))
    count, processes = loss["n_valid_examples"].detach().clone(), 1
    if dist.is_initialized():
        # DDP averages the gradients of the processes, so each loss is scaled by their number.
        dist.all_reduce(count)
        processes = dist.get_world_size()
    (loss["summed"] * processes / count).backward()
    optimizer.step()
    optimizer_state["scheduler"].step()
    return optimizer_state, current_param_container, model_state
