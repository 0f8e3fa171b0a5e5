"""Complete the table of a binary operation from part of its entries; what both frameworks share.

The sequence is a ∘ b =, read by a decoder-only transformer whose last position names the result. Training
accuracy is perfect long before the network generalises; the target is on the validation accuracy.
"""

import functools

import numpy as np

from workloads_extra.base import ExtraWorkload
from workloads_extra.data import Split, fixed_splits
from workloads_extra.grokking.operations import Table, modular_table, permutation_table
from workloads_extra.spec import LossType
from workloads_extra.transformer import Sequences, TransformerSize

_SEQUENCE_LENGTH = 4
_SIGNS = 2
_SPLIT_SEED = 0


class BaseGrokkingWorkload(ExtraWorkload):
    """Sum modulo 97 by a transformer of two layers, 60 % of the pairs for training."""

    name = "grokking"
    target_metric_name = "accuracy"
    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    output_layer = "output"
    operation = "sum"
    prime = 97
    training_share = 0.6
    size = TransformerSize(layers=2, width=128, heads=4, mlp_width=512)

    @property
    def eval_batch_size(self) -> int:
        """Examples per evaluation batch."""
        return 1024

    @functools.cached_property
    def _table(self) -> Table:
        """The operation to learn."""
        if self.operation == "composition":
            return permutation_table(5)
        return modular_table(self.operation, self.prime)

    @functools.cached_property
    def _split_sizes(self) -> dict[str, int]:
        """What training leaves is halved between validation and test."""
        pairs = len(self._table.result)
        train = round(self.training_share * pairs)
        validation = (pairs - train) // 2
        return {"train": train, "validation": validation, "test": pairs - train - validation}

    def _make_splits(self) -> dict[str, Split]:
        """Sequences of tokens: elements first, then the signs ∘ and =."""
        table = self._table
        sign, equals = (
            np.full_like(table.left, table.size),
            np.full_like(table.left, table.size + 1),
        )
        sequences = np.stack([table.left, sign, table.right, equals], axis=-1)
        return fixed_splits(Split(sequences, table.result), self._split_sizes, _SPLIT_SEED)

    @functools.cached_property
    def sequences(self) -> Sequences:
        """Elements and two signs are read, elements are said."""
        elements = self._table.size
        return Sequences(
            length=_SEQUENCE_LENGTH,
            vocabulary=elements + _SIGNS,
            classes=elements,
            last_only=True,
        )


class BaseGrokkingDifferenceWorkload(BaseGrokkingWorkload):
    """Difference modulo 97."""

    name = "grokking_difference"
    operation = "difference"


class BaseGrokkingProductWorkload(BaseGrokkingWorkload):
    """Product modulo 97."""

    name = "grokking_product"
    operation = "product"


class BaseGrokkingQuotientWorkload(BaseGrokkingWorkload):
    """Quotient modulo 97."""

    name = "grokking_quotient"
    operation = "quotient"


class BaseGrokkingPowerWorkload(BaseGrokkingWorkload):
    """Power modulo 97."""

    name = "grokking_power"
    operation = "power"


class BaseGrokkingCompositionWorkload(BaseGrokkingWorkload):
    """Composition of permutations of five letters."""

    name = "grokking_composition"
    operation = "composition"


class BaseGrokkingMiniWorkload(BaseGrokkingWorkload):
    """Sum modulo 31 by one layer: groks in a few minutes on two cores."""

    name = "grokking_mini"
    prime = 31
    training_share = 0.7
    size = TransformerSize(layers=1, width=64, heads=4, mlp_width=256)
