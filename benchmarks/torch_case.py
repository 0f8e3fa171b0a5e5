"""The benchmark networks in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import llqr.torch
from benchmarks import cases
from benchmarks.rss import peak_growth
from llqr.config import LLQRConfig
from llqr.curvature import quadratic_model
from llqr.preconditioner import Preconditioner, PreconditionerState
from llqr.structures import fold_output_first


class Attention(nn.Module):
    """Causal self-attention with fused projections."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(cases.WIDTH, 3 * cases.WIDTH)
        self.out = nn.Linear(cases.WIDTH, cases.WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, T, d] to [B, T, d]."""
        shape = (*x.shape[:2], 3, cases.HEADS, cases.WIDTH // cases.HEADS)
        q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class Transformer(nn.Module):
    """Pre-norm decoder; the last token is read out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(cases.VOCABULARY, cases.WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(cases.TOKENS, cases.WIDTH))
        self.attention = nn.ModuleList(Attention() for _ in range(cases.DEPTH))
        self.norms = nn.ModuleList(nn.LayerNorm(cases.WIDTH) for _ in range(2 * cases.DEPTH + 1))
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.Linear(cases.WIDTH, cases.HIDDEN),
                nn.GELU(),
                nn.Linear(cases.HIDDEN, cases.WIDTH),
            )
            for _ in range(cases.DEPTH)
        )
        self.readout = nn.Linear(cases.WIDTH, cases.CLASSES)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Map tokens [B, T] to logits [B, classes]."""
        x = self.embed(tokens) + self.position
        for index in range(cases.DEPTH):
            x = x + self.attention[index](self.norms[2 * index](x))
            x = x + self.mlp[index](self.norms[2 * index + 1](x))
        return self.readout(self.norms[-1](x)[:, -1])


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        plain = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity()
            if plain
            else nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, C, H, W] to [B, C', H/stride, W/stride]."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Return ResNet-18 in its CIFAR form."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
    ]
    channels_in = 64
    for channels, stride in cases.STAGES:
        layers += [ResidualBlock(channels_in, channels, stride)]
        layers += [ResidualBlock(channels, channels, 1)]
        channels_in = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class TorchCase:
    """See :class:`benchmarks.cases.Case`."""

    def __init__(self, network: str, batch: int, device: str) -> None:
        torch.manual_seed(0)
        self.device = device
        if network == "transformer":
            self.model: nn.Module = Transformer()
            x = torch.randint(0, cases.VOCABULARY, (batch, cases.TOKENS))
            y = torch.randint(0, cases.CLASSES, (batch,))
        else:
            self.model = resnet18()
            x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
        self.model.to(device)
        self.batch = (x.to(device), y.to(device))
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        """Return the mean cross-entropy."""
        return nn.functional.cross_entropy(outputs, batch[1])

    def wait(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def gradient(self) -> Callable[[], None]:
        """Return one gradient of the batch."""
        parameters = list(self.model.parameters())

        def run() -> None:
            torch.autograd.grad(self.loss(self.model(self.batch[0]), self.batch), parameters)
            self.wait()

        return run

    def fit(self, config: LLQRConfig) -> Callable[[], PreconditionerState]:
        """Return one refresh."""
        named = {name: p.detach() for name, p in self.model.named_parameters()}
        preconditioner = Preconditioner(
            llqr.torch.TorchBackend(),
            config,
            {name: tuple(value.shape) for name, value in named.items()},
            fold_output_first,
        )
        state = preconditioner.init(named)

        def run() -> PreconditionerState:
            problem = llqr.torch.linearise(
                self.model,
                self.loss,
                self.batch,
                curvature=config.curvature,
                chunk_size=config.chunk_size,
            )
            model = quadratic_model(config.curvature, problem)
            sources = {"input": model.gradient, "gradient": model.gradient}
            sources["update"] = {name: value.sign() for name, value in model.gradient.items()}
            result = preconditioner.fit(state, model, sources)
            self.wait()
            return result

        return run

    def peak_bytes(self, what: str, config: LLQRConfig) -> int:
        """Return the growth of peak memory; on a CPU that of the whole process, so run in a fresh one."""
        run = self.gradient() if what == "gradient" else self.fit(config)
        if self.device == "cpu":
            return peak_growth(run)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
