"""Relative in PyTorch: M-FAC, the inverse Fisher of a window of gradients, warm-up and cosine."""

from typing import Any

from torch import nn

from llqr.torch.relatives import MFAC
from submissions.baselines.wiring.pytorch import PytorchBaseline


def make(model: nn.Module, hyperparameters: Any, warmup_steps: int) -> MFAC:
    """Return the optimizer."""
    return MFAC(
        model.named_parameters(),
        lr=hyperparameters.learning_rate,
        window=getattr(hyperparameters, "window", 32),
        damping=getattr(hyperparameters, "damping", 1e-3),
        momentum=1.0 - hyperparameters.one_minus_beta1,
        weight_decay=hyperparameters.weight_decay,
    )


_baseline = PytorchBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
