"""The grokking workloads in JAX."""

from workloads_extra.grokking.workload import (
    BaseGrokkingCompositionWorkload,
    BaseGrokkingDifferenceWorkload,
    BaseGrokkingMiniWorkload,
    BaseGrokkingPowerWorkload,
    BaseGrokkingProductWorkload,
    BaseGrokkingQuotientWorkload,
    BaseGrokkingWorkload,
)
from workloads_extra.transformer_jax import TransformerJaxWorkload


class GrokkingWorkload(TransformerJaxWorkload, BaseGrokkingWorkload):
    """Sum modulo 97."""


class GrokkingDifferenceWorkload(TransformerJaxWorkload, BaseGrokkingDifferenceWorkload):
    """Difference modulo 97."""


class GrokkingProductWorkload(TransformerJaxWorkload, BaseGrokkingProductWorkload):
    """Product modulo 97."""


class GrokkingQuotientWorkload(TransformerJaxWorkload, BaseGrokkingQuotientWorkload):
    """Quotient modulo 97."""


class GrokkingPowerWorkload(TransformerJaxWorkload, BaseGrokkingPowerWorkload):
    """Power modulo 97."""


class GrokkingCompositionWorkload(TransformerJaxWorkload, BaseGrokkingCompositionWorkload):
    """Composition of permutations of five letters."""


class GrokkingMiniWorkload(TransformerJaxWorkload, BaseGrokkingMiniWorkload):
    """Sum modulo 31 by one layer."""
