"""One training step in PyTorch around any optimizers, and a submission made of it."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llqr.algoperf.recipes import Schedule
from llqr.algoperf.submission import Submission
from llqr.algoperf.torch_running_statistics import PresentStatistics
from submissions.baselines.wiring.common import (
    label_smoothing,
    model_options,
    warmup_steps,
)
from workloads_extra.spec import ForwardPassMode

Make = Callable[[nn.Module, Any, int], Optimizer | Sequence[Optimizer]]
"""(model, hyperparameters, warm-up steps) ↦ the optimizer, or several for different parameters."""


class PytorchBaseline(Submission):
    """AlgoPerf's submission functions.

    Args:
        make: makes the optimizers.
        scheduled: whether the learning rate follows warm-up and cosine to ``hyperparameters.learning_rate``.
        differentiated_every: steps between those at which the optimizer differentiates the gradient, or 0.
        present_statistics: whether normalisations are evaluated with statistics of the parameters that are
            evaluated (:mod:`llqr.algoperf.running_statistics`), not of those trained in the past.
    """

    def __init__(
        self,
        make: Make,
        scheduled: bool = True,
        differentiated_every: int = 0,
        present_statistics: bool = False,
    ):
        self._make = make
        self._scheduled = scheduled
        self._differentiated_every = differentiated_every
        self._present_statistics = present_statistics

    def init_optimizer_state(
        self, workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
    ) -> dict[str, Any]:
        """Return optimizers and schedules under names of their own."""
        warmup = warmup_steps(workload, hyperparameters)
        made = self._make(model_params, hyperparameters, warmup)
        factor = Schedule(peak=1.0, warmup_steps=warmup, total_steps=workload.step_hint)
        state: dict[str, Any] = {}
        if self._present_statistics:
            state["statistics"] = PresentStatistics(model_params)
        for number, optimizer in enumerate([made] if isinstance(made, Optimizer) else made):
            suffix = f"_{number}" if number else ""
            state[f"optimizer{suffix}"] = optimizer
            if self._scheduled:
                state[f"scheduler{suffix}"] = LambdaLR(
                    optimizer, lambda step: float(factor(step, np))
                )
        return state

    def update_params(
        self,
        workload: Any,
        current_param_container: nn.Module,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        batch: dict[str, Any],
        loss_type: Any,
        optimizer_state: dict[str, Any],
        eval_results: list[Any],
        global_step: int,
        rng: Any,
        train_state: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Do one step."""
        optimizers = _select(optimizer_state, "optimizer")
        for optimizer in optimizers:
            optimizer.zero_grad()
            if hasattr(optimizer, "train"):
                optimizer.train()
        for statistics in _select(optimizer_state, "statistics"):
            statistics.train(current_param_container, batch)
        loss, model_state = _mean_loss(
            workload, hyperparameters, current_param_container, model_state, batch, rng
        )
        self._backward(loss, global_step)
        for part in [*optimizers, *_select(optimizer_state, "scheduler")]:
            part.step()
        return optimizer_state, current_param_container, model_state

    def _backward(self, loss: torch.Tensor, global_step: int) -> None:
        """Write the gradient, so that it can be differentiated where the optimizer is going to."""
        every = self._differentiated_every
        if not every or global_step % every:
            loss.backward()
            return
        with warnings.catch_warnings():
            # Gradients are set to None before the next step, which breaks the cycle it warns of.
            warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph=True")
            loss.backward(create_graph=True)

    def prepare_for_eval(
        self,
        workload: Any,
        current_param_container: nn.Module,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        loss_type: Any,
        optimizer_state: dict[str, Any],
        eval_results: list[Any],
        global_step: int,
        rng: Any,
    ) -> tuple[Any, Any, Any]:
        """Put the parameters to evaluate into the model, where they are others than those trained."""
        for optimizer in _select(optimizer_state, "optimizer"):
            if hasattr(optimizer, "eval"):
                optimizer.eval()
        for statistics in _select(optimizer_state, "statistics"):
            statistics.evaluate(current_param_container, workload, model_state)
        return optimizer_state, current_param_container, model_state


def matrices_and_others(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters with two axes, and the others."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    return [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2]


def _select(state: dict[str, Any], kind: str) -> list[Any]:
    """Entries whose name begins so."""
    return [value for name, value in state.items() if name.startswith(kind)]


def _mean_loss(
    workload: Any,
    hyperparameters: Any,
    model: nn.Module,
    model_state: Any,
    batch: dict[str, Any],
    rng: Any,
) -> tuple[torch.Tensor, Any]:
    """Return the mean training loss over all processes and the new model state."""
    outputs, model_state = workload.model_fn(
        model,
        batch,
        model_state,
        ForwardPassMode.TRAIN,
        rng,
        update_batch_norm=True,
        **model_options(hyperparameters),
    )
    loss = workload.loss_fn(
        batch["targets"], outputs, batch.get("weights"), label_smoothing(hyperparameters)
    )
    count, processes = loss["n_valid_examples"].detach().clone(), 1
    if dist.is_initialized():
        # DDP averages the gradients of the processes, so each loss is scaled by their number.
        dist.all_reduce(count)
        processes = dist.get_world_size()
    return loss["summed"] * processes / count, model_state
