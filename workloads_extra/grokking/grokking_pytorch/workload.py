"""The transformer of the grokking workloads in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workloads_extra.grokking.workload import (
    NORM_EPSILON,
    SEQUENCE_LENGTH,
    BaseGrokkingCompositionWorkload,
    BaseGrokkingDifferenceWorkload,
    BaseGrokkingMiniWorkload,
    BaseGrokkingPowerWorkload,
    BaseGrokkingProductWorkload,
    BaseGrokkingQuotientWorkload,
    BaseGrokkingWorkload,
    TransformerSize,
)
from workloads_extra.pytorch_workload import PytorchWorkload


class _Norm(nn.Module):
    """Layer normalisation with a scale and no shift, over the last axis.

    Args:
        width: of that axis.
    """

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        return F.layer_norm(hidden, self.scale.shape, self.scale, eps=NORM_EPSILON)


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
        self.attention_norm = _Norm(size.width)
        self.attention = _Attention(size)
        self.mlp_norm = _Norm(size.width)
        self.mlp = _Perceptron(size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, length, width] to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden))
        return hidden + self.mlp(self.mlp_norm(hidden))


class _Transformer(nn.Module):
    """Reads the result off the last position.

    Args:
        size: widths.
        elements: of the set on which the operation is defined.
    """

    def __init__(self, size: TransformerSize, elements: int):
        super().__init__()
        self.token_embedding = nn.Embedding(elements + 2, size.width)
        self.position_embedding = nn.Embedding(SEQUENCE_LENGTH, size.width)
        self._blocks = [f"block_{index}" for index in range(size.layers)]
        for name in self._blocks:
            self.add_module(name, _Block(size))
        self.final_norm = _Norm(size.width)
        self.output = nn.Linear(size.width, elements, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[batch, length] tokens to [batch, elements]."""
        positions = torch.arange(SEQUENCE_LENGTH, device=inputs.device)
        hidden = self.token_embedding(inputs) + self.position_embedding(positions)
        for name in self._blocks:
            hidden = self.get_submodule(name)(hidden)
        return self.output(self.final_norm(hidden[:, -1]))


class _GrokkingPytorchWorkload(PytorchWorkload):
    """Builds the transformer."""

    def _make_model(self) -> nn.Module:
        """The transformer for the elements of the table."""
        return _Transformer(self.size, self._table.size)


class GrokkingWorkload(_GrokkingPytorchWorkload, BaseGrokkingWorkload):
    """Sum modulo 97."""


class GrokkingDifferenceWorkload(_GrokkingPytorchWorkload, BaseGrokkingDifferenceWorkload):
    """Difference modulo 97."""


class GrokkingProductWorkload(_GrokkingPytorchWorkload, BaseGrokkingProductWorkload):
    """Product modulo 97."""


class GrokkingQuotientWorkload(_GrokkingPytorchWorkload, BaseGrokkingQuotientWorkload):
    """Quotient modulo 97."""


class GrokkingPowerWorkload(_GrokkingPytorchWorkload, BaseGrokkingPowerWorkload):
    """Power modulo 97."""


class GrokkingCompositionWorkload(_GrokkingPytorchWorkload, BaseGrokkingCompositionWorkload):
    """Composition of permutations of five letters."""


class GrokkingMiniWorkload(_GrokkingPytorchWorkload, BaseGrokkingMiniWorkload):
    """Sum modulo 31 by one layer."""
