"""The grokking workloads in PyTorch."""

from workloads_extra.grokking.workload import (
    BaseGrokkingCompositionWorkload,
    BaseGrokkingDifferenceWorkload,
    BaseGrokkingMiniWorkload,
    BaseGrokkingPowerWorkload,
    BaseGrokkingProductWorkload,
    BaseGrokkingQuotientWorkload,
    BaseGrokkingWorkload,
)
from workloads_extra.transformer_pytorch import TransformerPytorchWorkload


class GrokkingWorkload(TransformerPytorchWorkload, BaseGrokkingWorkload):
    """Sum modulo 97."""


class GrokkingDifferenceWorkload(TransformerPytorchWorkload, BaseGrokkingDifferenceWorkload):
    """Difference modulo 97."""


class GrokkingProductWorkload(TransformerPytorchWorkload, BaseGrokkingProductWorkload):
    """Product modulo 97."""


class GrokkingQuotientWorkload(TransformerPytorchWorkload, BaseGrokkingQuotientWorkload):
    """Quotient modulo 97."""


class GrokkingPowerWorkload(TransformerPytorchWorkload, BaseGrokkingPowerWorkload):
    """Power modulo 97."""


class GrokkingCompositionWorkload(TransformerPytorchWorkload, BaseGrokkingCompositionWorkload):
    """Composition of permutations of five letters."""


class GrokkingMiniWorkload(TransformerPytorchWorkload, BaseGrokkingMiniWorkload):
    """Sum modulo 31 by one layer."""
