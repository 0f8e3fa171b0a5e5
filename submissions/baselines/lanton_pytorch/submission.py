"""Relative in PyTorch: LANTON, orthogonalised momentum with noise-adaptive rates, warm-up and cosine."""

from typing import Any

from torch import nn

from llqr.relatives import NoiseAdaptiveRates
from llqr.torch.relatives import LANTON
from submissions.baselines.wiring.pytorch import PytorchBaseline


def make(model: nn.Module, hyperparameters: Any, warmup_steps: int) -> LANTON:
    """Return the optimizer."""
    return LANTON(
        model.named_parameters(),
        lr=hyperparameters.learning_rate,
        momentum=1.0 - hyperparameters.one_minus_beta1,
        noise=NoiseAdaptiveRates(noise_scale=getattr(hyperparameters, "noise_scale", 1.0)),
        weight_decay=hyperparameters.weight_decay,
    )


_baseline = PytorchBaseline(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
