"""The character language model in PyTorch."""

from workloads_extra.char_lm.workload import BaseCharLmWorkload
from workloads_extra.transformer_pytorch import TransformerPytorchWorkload


class CharLmWorkload(TransformerPytorchWorkload, BaseCharLmWorkload):
    """Continue names with a transformer."""
