"""Baseline in PyTorch: Schedule-Free AdamW of schedulefree, with warm-up."""

from typing import Any

from schedulefree import AdamWScheduleFree
from torch import nn
from torch.optim import Optimizer

from submissions.baselines.wiring.pytorch import PytorchBaseline


def make(model: nn.Module, hyperparameters: Any, warmup_steps: int) -> Optimizer:
    """Return the optimizer."""
    return AdamWScheduleFree(
        model.parameters(),
        lr=hyperparameters.learning_rate,
        betas=(1.0 - hyperparameters.one_minus_beta1, hyperparameters.beta2),
        weight_decay=hyperparameters.weight_decay,
        warmup_steps=warmup_steps,
    )


# Its authors ask for it: what is evaluated is not where gradients are taken.
_baseline = PytorchBaseline(make, scheduled=False, present_statistics=True)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
