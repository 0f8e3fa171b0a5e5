"""Decoder-only transformer in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads_extra.parameters import Specs
from workloads_extra.pytorch_workload import PytorchWorkload
from workloads_extra.transformer import (
    NORM_EPSILON,
    Sequences,
    TransformerSize,
    block_name,
    transformer_specs,
)


def _norm(width: int) -> nn.LayerNorm:
    """Layer normalisation with a scale and no shift, over the last axis."""
    return nn.LayerNorm(width, eps=NORM_EPSILON, bias=False)


class _Attention(nn.Module):
    """Causal attention, written out because fused kernels lack forward-mode derivatives.

    Args:
        size: of the transformer.
    """

    def __init__(self, size: TransformerSize):
        super().__init__()
        self._heads = size.heads
        for name in ("query", "key", "value", "out"):
            self.add_module(name, nn.Linear(size.width, size.width, bias=False))

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, length, width] to the same shape."""
        batch, length, width = hidden.shape
        heads = (batch, length, self._heads, width // self._heads)
        query, key, value = (
            layer(hidden).reshape(heads) for layer in (self.query, self.key, self.value)
        )
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / heads[-1] ** 0.5
        causal = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()
        weights = scores.masked_fill(~causal, float("-inf")).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", weights, value)
        return self.out(mixed.reshape(batch, length, width))


class _Perceptron(nn.Module):
    """Two linear layers with a ReLU between them.

    Args:
        size: of the transformer.
    """

    def __init__(self, size: TransformerSize):
        super().__init__()
        self.dense_0 = nn.Linear(size.width, size.mlp_width)
        self.dense_1 = nn.Linear(size.mlp_width, size.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        return self.dense_1(F.relu(self.dense_0(hidden)))


class _Block(nn.Module):
    """Attention and perceptron, each behind a normalisation and beside a residual connection.

    Args:
        size: of the transformer.
    """

    def __init__(self, size: TransformerSize):
        super().__init__()
        self.attention_norm = _norm(size.width)
        self.attention = _Attention(size)
        self.mlp_norm = _norm(size.width)
        self.mlp = _Perceptron(size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, length, width] to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class Transformer(nn.Module):
    """Embeddings, blocks and a linear layer.

    Args:
        size: widths.
        sequences: what is read and said.
    """

    def __init__(self, size: TransformerSize, sequences: Sequences):
        super().__init__()
        self._last_only = sequences.last_only
        self.token_embedding = nn.Embedding(sequences.vocabulary, size.width)
        self.position_embedding = nn.Embedding(sequences.length, size.width)
        self._blocks = [block_name(index) for index in range(size.layers)]
        for name in self._blocks:
            self.add_module(name, _Block(size))
        self.final_norm = _norm(size.width)
        self.output = nn.Linear(size.width, sequences.classes, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[batch, length] tokens to [batch, classes] or [batch, length, classes]."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        hidden = self.token_embedding(inputs) + self.position_embedding(positions)
        for name in self._blocks:
            hidden = self.get_submodule(name)(hidden)
        read = hidden[:, -1] if self._last_only else hidden
        return self.output(self.final_norm(read))


class TransformerPytorchWorkload(PytorchWorkload):
    """Mixin for workloads that state ``size`` and ``sequences``."""

    size: TransformerSize
    sequences: Sequences

    def _parameter_specs(self) -> Specs:
        """Embeddings, blocks and output."""
        return transformer_specs(self.size, self.sequences)

    def _make_model(self) -> nn.Module:
        """The transformer."""
        return Transformer(self.size, self.sequences)
