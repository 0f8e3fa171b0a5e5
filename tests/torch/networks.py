"""Small networks in float64, one per kind of layer, and their dense curvature as the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

CLASSES = 3


class Attention(nn.Module):
    """Fused projections and scaled-dot-product attention, with dropout."""

    def __init__(self, tokens: int = 4, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        p = 0.3 if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.readout(x + mixed.transpose(1, 2).flatten(-2))[:, -1]


class Encoder(nn.Module):
    """torch's own encoder layer around nn.MultiheadAttention; its fast path has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.2, batch_first=True)
        self.readout = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layer(x).mean(1))


class Recurrent(nn.Module):
    """An LSTM and a GRU in series."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True)
        self.gru = nn.GRU(3, 2, batch_first=True)
        self.readout = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.gru(self.lstm(x)[0])[0][:, -1])


class Tied(nn.Module):
    """An embedding shared with the read-out, and a frozen layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.middle = nn.Linear(4, 4)
        self.readout = nn.Linear(4, CLASSES, bias=False)
        self.readout.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.readout(torch.tanh(self.middle(self.frozen(self.embed(tokens)))))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


def case(name: str, examples: int = 6) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return a network in training mode and a batch (inputs, classes), the same for each name."""
    torch.manual_seed(len(name))
    inputs: dict[str, Callable[[], Tensor]] = {
        "mlp": lambda: torch.randn(examples, 4),
        "convolution": lambda: torch.randn(examples, 1, 4, 4),
        "attention": lambda: torch.randint(0, 7, (examples, 4)),
        "encoder": lambda: torch.randn(examples, 3, 4),
        "recurrent": lambda: torch.randn(examples, 4, 2),
        "tied": lambda: torch.randint(0, CLASSES, (examples,)),
    }
    build = {
        "mlp": mlp,
        "convolution": convolution,
        "attention": Attention,
        "encoder": Encoder,
        "recurrent": Recurrent,
        "tied": Tied,
    }
    model = build[name]().double().train()
    x = inputs[name]()
    x = x.double() if x.is_floating_point() else x
    if name == "convolution":
        model(x)  # running statistics away from 0 and 1
    return model, (x, torch.randint(0, CLASSES, (examples,)))


def cross_entropy(outputs: Tensor, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch[1])


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flatten(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in values.values()])


def unflatten(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    pieces = flat.split([value.numel() for value in like.values()])
    return {n: p.reshape(v.shape) for (n, v), p in zip(like.items(), pieces, strict=True)}


def with_running_statistics(model: nn.Module) -> nn.Module:
    """Return the model after its batch norms have been put into inference mode."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    return model


def random_direction(model: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        for name, p in trainable(model).items()
    }


def of_parameters(model: nn.Module, function: Callable[[Callable], Any]) -> tuple[Callable, Tensor]:
    """Return θ ↦ function(the model without dropout at θ) on flat vectors, and the current θ."""
    twin = copy.deepcopy(model).eval()
    for part, original in zip(twin.modules(), model.modules(), strict=True):
        if isinstance(part, nn.BatchNorm2d):
            part.train(original.training)
    like = trainable(twin)

    def at(flat: Tensor) -> Any:
        parameters = unflatten(flat, like)
        with sdpa_kernel(SDPBackend.MATH):
            return function(lambda *inputs: functional_call(twin, parameters, inputs))

    return at, flatten(like)


def dense_jacobian(model: nn.Module, function: Callable[[Callable], Tensor]) -> Tensor:
    """Return ∂vec(function)/∂θ, row by row in reverse mode."""
    at, theta = of_parameters(model, lambda m: function(m).reshape(-1))
    return torch.autograd.functional.jacobian(at, theta)


def dense_hessian(model: nn.Module, function: Callable[[Callable], Tensor]) -> Tensor:
    """Return ∂²function/∂θ²."""
    at, theta = of_parameters(model, function)
    return torch.autograd.functional.hessian(at, theta)


def kullback_leibler_hessian(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return ∂²/∂z² Σ_events w KL(softmax(logits) ‖ softmax(z)) at z = logits."""
    log_p = logits.detach().log_softmax(-1)

    def divergence(flat: Tensor) -> Tensor:
        gap = log_p - flat.reshape(logits.shape).log_softmax(-1)
        events = (log_p.exp() * gap).sum(-1)
        return events.sum() if weights is None else (events * weights).sum()

    return torch.autograd.functional.hessian(divergence, logits.detach().reshape(-1))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
