"""One training step of gradient-normalized Newton in PyTorch, and a submission made of it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llqr.algoperf.curvature_batches import BATCH
from llqr.algoperf.submission import Submission
from llqr.algoperf.torch_curvature import WHOLE, TorchObjective, Whole
from llqr.curvature import AbstractCurvature
from llqr.relatives import GradientNormalizedNewton as Method
from llqr.torch.relatives import GradientNormalizedNewton
from submissions.baselines.wiring.common import label_smoothing, model_options
from workloads_extra.spec import ForwardPassMode

Settings = Callable[[Any], tuple[AbstractCurvature, Method]]
"""hyperparameters ↦ (curvature, method)."""


class PytorchNewton(Submission):
    """AlgoPerf's submission functions.

    A batch is its own problem: its loss, without dropout, decides whether its step is accepted. Models that
    put out more than a tensor are not supported.

    Args:
        settings: makes curvature and method.
    """

    def __init__(self, settings: Settings):
        self._settings = settings

    def init_optimizer_state(
        self, workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
    ) -> dict[str, Any]:
        """Return the optimizer."""
        curvature, method = self._settings(hyperparameters)
        objective = TorchObjective(
            workload=workload, label_smoothing=label_smoothing(hyperparameters)
        )
        optimizer = GradientNormalizedNewton(
            model_params,
            objective.loss,
            curvature=curvature,
            method=method,
            lr=hyperparameters.learning_rate,
            outputs_fn=objective.outputs,
        )
        return {"optimizer": optimizer}

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
        with torch.no_grad():
            # For what a pass in training mode leaves behind: running statistics.
            _, model_state = workload.model_fn(
                current_param_container,
                batch,
                model_state,
                ForwardPassMode.TRAIN,
                rng,
                update_batch_norm=True,
                **model_options(hyperparameters),
            )
        optimizer_state["optimizer"].step(batch={BATCH: batch, WHOLE: Whole({})})
        return optimizer_state, current_param_container, model_state
