"""Complete the table of a binary operation from part of its entries; what both frameworks share.

The sequence is a ∘ b =, read by a decoder-only transformer whose last position names the result. Training
accuracy is perfect long before the network generalises; the target is on the validation accuracy.
"""

import functools
from typing import NamedTuple

import numpy as np

from workloads_extra.base import ExtraWorkload
from workloads_extra.data import Split, fixed_splits
from workloads_extra.grokking.operations import Table, modular_table, permutation_table
from workloads_extra.parameters import ParameterSpec, Specs, bias, kernel
from workloads_extra.spec import LossType, ParameterType

SEQUENCE_LENGTH = 4
NORM_EPSILON = 1e-5
_SPLIT_SEED = 0


class TransformerSize(NamedTuple):
    """Widths of a transformer.

    Attributes:
        layers: number of blocks.
        width: of the residual stream.
        heads: of attention; width / heads is the width of each.
        mlp_width: of the hidden layer in each block.
    """

    layers: int
    width: int
    heads: int
    mlp_width: int


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

    def _parameter_specs(self) -> Specs:
        """Embeddings, blocks and output."""
        width = self.size.width
        embedding = {"type": ParameterType.EMBEDDING, "stddev": width**-0.5}
        specs = {
            "token_embedding/embedding": ParameterSpec((self._table.size + 2, width), **embedding),
            "position_embedding/embedding": ParameterSpec((SEQUENCE_LENGTH, width), **embedding),
        }
        for index in range(self.size.layers):
            block = _block_specs(self.size)
            specs.update({f"block_{index}/{path}": spec for path, spec in block.items()})
        specs["final_norm/scale"] = _norm_scale(width)
        specs["output/kernel"] = kernel(width, self._table.size)
        return specs


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


def _norm_scale(width: int) -> ParameterSpec:
    """Scale of a layer normalisation without shift."""
    return ParameterSpec((width,), ParameterType.LAYER_NORM_SCALE, mean=1.0)


def _block_specs(size: TransformerSize) -> Specs:
    """Attention and perceptron of one block, each behind a normalisation."""
    width = size.width
    return {
        "attention_norm/scale": _norm_scale(width),
        "attention/query/kernel": kernel(width, width, ParameterType.ATTENTION_Q),
        "attention/key/kernel": kernel(width, width, ParameterType.ATTENTION_K),
        "attention/value/kernel": kernel(width, width, ParameterType.ATTENTION_V),
        "attention/out/kernel": kernel(width, width, ParameterType.ATTENTION_OUT),
        "mlp_norm/scale": _norm_scale(width),
        "mlp/dense_0/kernel": kernel(width, size.mlp_width),
        "mlp/dense_0/bias": bias(size.mlp_width),
        "mlp/dense_1/kernel": kernel(size.mlp_width, width),
        "mlp/dense_1/bias": bias(width),
    }
