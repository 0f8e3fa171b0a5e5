"""The digits autoencoder in PyTorch."""

from workloads_extra.digits_autoencoder.workload import BaseDigitsAutoencoderWorkload
from workloads_extra.mlp_pytorch import MlpPytorchWorkload


class DigitsAutoencoderWorkload(MlpPytorchWorkload, BaseDigitsAutoencoderWorkload):
    """Reconstruct digits with a perceptron."""
