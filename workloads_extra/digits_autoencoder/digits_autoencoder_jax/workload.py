"""The digits autoencoder in JAX."""

from workloads_extra.digits_autoencoder.workload import BaseDigitsAutoencoderWorkload
from workloads_extra.mlp_jax import MlpJaxWorkload


class DigitsAutoencoderWorkload(MlpJaxWorkload, BaseDigitsAutoencoderWorkload):
    """Reconstruct digits with a perceptron."""
