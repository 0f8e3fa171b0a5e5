"""The character language model in JAX."""

from workloads_extra.char_lm.workload import BaseCharLmWorkload
from workloads_extra.transformer_jax import TransformerJaxWorkload


class CharLmWorkload(TransformerJaxWorkload, BaseCharLmWorkload):
    """Continue names with a transformer."""
