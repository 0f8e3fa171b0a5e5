"""Decoder-only transformers, declared once and written in both frameworks without importing either here."""

from typing import NamedTuple

from workloads_extra.parameters import ParameterSpec, Specs, bias, kernel, norm_scale
from workloads_extra.spec import ParameterType

NORM_EPSILON = 1e-5


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


class Sequences(NamedTuple):
    """What a transformer reads and says.

    Attributes:
        length: tokens of a sequence.
        vocabulary: different tokens.
        classes: of the output.
        last_only: whether the output is read off the last position alone, or off every position.
    """

    length: int
    vocabulary: int
    classes: int
    last_only: bool


def transformer_specs(size: TransformerSize, sequences: Sequences) -> Specs:
    """Return the parameters of a transformer: embeddings, blocks and output.

    Args:
        size: its widths.
        sequences: what it reads and says.
    """
    width = size.width
    embedding = {"type": ParameterType.EMBEDDING, "stddev": width**-0.5}
    specs = {
        "token_embedding/embedding": ParameterSpec((sequences.vocabulary, width), **embedding),
        "position_embedding/embedding": ParameterSpec((sequences.length, width), **embedding),
    }
    for index in range(size.layers):
        block = _block_specs(size)
        specs.update({f"{block_name(index)}/{path}": spec for path, spec in block.items()})
    specs["final_norm/scale"] = norm_scale(width)
    specs["output/kernel"] = kernel(width, sequences.classes)
    return specs


def block_name(index: int) -> str:
    """Return the name of a block."""
    return f"block_{index}"


def _block_specs(size: TransformerSize) -> Specs:
    """Attention and perceptron of one block, each behind a normalisation."""
    width = size.width
    return {
        "attention_norm/scale": norm_scale(width),
        "attention/query/kernel": kernel(width, width, ParameterType.ATTENTION_Q),
        "attention/key/kernel": kernel(width, width, ParameterType.ATTENTION_K),
        "attention/value/kernel": kernel(width, width, ParameterType.ATTENTION_V),
        "attention/out/kernel": kernel(width, width, ParameterType.ATTENTION_OUT),
        "mlp_norm/scale": norm_scale(width),
        "mlp/dense_0/kernel": kernel(width, size.mlp_width),
        "mlp/dense_0/bias": bias(size.mlp_width),
        "mlp/dense_1/kernel": kernel(size.mlp_width, width),
        "mlp/dense_1/bias": bias(width),
    }
