"""Baseline in PyTorch: Muon of torch (2.9 or later) for matrices, AdamW for the rest, warm-up and cosine."""

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from submissions.baselines.wiring.pytorch import PytorchBaseline, matrices_and_others


def make(model: nn.Module, hyperparameters: Any, warmup_steps: int) -> list[Optimizer]:
    """Return the optimizers."""
    matrices, others = matrices_and_others(model)
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    momentum = 1.0 - hyperparameters.one_minus_beta1
    optimizers: list[Optimizer] = []
    if matrices:
        optimizers.append(Muon(matrices, lr=rate, weight_decay=decay, momentum=momentum))
    if others:
        betas = (0.9, hyperparameters.beta2)
        optimizers.append(AdamW(others, lr=rate, betas=betas, weight_decay=decay))
    return optimizers


_baseline = PytorchBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
