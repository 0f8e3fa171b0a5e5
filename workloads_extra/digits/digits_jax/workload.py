"""The digits classifier in JAX."""

from workloads_extra.digits.workload import BaseDigitsWorkload
from workloads_extra.mlp_jax import MlpJaxWorkload


class DigitsWorkload(MlpJaxWorkload, BaseDigitsWorkload):
    """Classify digits with a perceptron."""
