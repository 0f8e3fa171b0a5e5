"""Baseline in PyTorch: Sophia of pytorch-optimizer with Hutchinson's estimate, warm-up and cosine."""

from typing import Any

from pytorch_optimizer import SophiaH
from torch import nn
from torch.optim import Optimizer

from submissions.baselines.wiring.pytorch import PytorchBaseline

GAMMA = 0.01
UPDATE_PERIOD = 10


def make(model: nn.Module, hyperparameters: Any, warmup_steps: int) -> Optimizer:
    """Return the optimizer."""
    return SophiaH(
        model.parameters(),
        # It clips m / h at γ where the version in JAX clips m / (γ h) at 1; learning rates mean the same so.
        lr=hyperparameters.learning_rate / GAMMA,
        betas=(1.0 - hyperparameters.one_minus_beta1, hyperparameters.beta2),
        weight_decay=hyperparameters.weight_decay * GAMMA,
        p=GAMMA,
        update_period=UPDATE_PERIOD,
    )


_baseline = PytorchBaseline(make, differentiated_every=UPDATE_PERIOD)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
