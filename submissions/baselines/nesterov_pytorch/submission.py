"""Baseline in PyTorch: SGD with Nesterov momentum of torch, warm-up and cosine."""

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from submissions.baselines.wiring.pytorch import PytorchBaseline


def make(model: nn.Module, hyperparameters: Any, warmup_steps: int) -> Optimizer:
    """Return the optimizer."""
    return SGD(
        model.parameters(),
        lr=hyperparameters.learning_rate,
        momentum=1.0 - hyperparameters.one_minus_beta1,
        weight_decay=hyperparameters.weight_decay,
        nesterov=True,
    )


_baseline = PytorchBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
