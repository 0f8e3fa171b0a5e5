"""The digits classifier in PyTorch."""

from workloads_extra.digits.workload import BaseDigitsWorkload
from workloads_extra.mlp_pytorch import MlpPytorchWorkload


class DigitsWorkload(MlpPytorchWorkload, BaseDigitsWorkload):
    """Classify digits with a perceptron."""
