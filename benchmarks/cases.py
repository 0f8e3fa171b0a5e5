"""What is measured: two networks on random batches, in either framework.

    transformer   2 layers, d 128, 4 heads, MLP 512, 97 classes, 4 tokens (0.46 M parameters), float32
    resnet18      the CIFAR form on 32×32 images, 10 classes (11.2 M); BatchNorm by the batch in torch,
                  with unit running statistics in JAX

The default batches are 128 and 8: times are ratios, and the larger network is slow on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from llqr.config import LLQRConfig

BATCH = {"transformer": 128, "resnet18": 8}
TOKENS, VOCABULARY, CLASSES, WIDTH, HEADS, HIDDEN, DEPTH = 4, 100, 97, 128, 4, 512, 2
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and stride of ResNet-18's four stages of two blocks each."""


class Case(Protocol):
    """One network in one framework."""

    parameters: int

    def gradient(self) -> Callable[[], None]:
        """Return a function that computes one gradient of the whole batch and blocks."""
        ...

    def fit(self, config: LLQRConfig) -> Callable[[], Any]:
        """Return a function that refreshes the factors once and blocks; it returns the state."""
        ...

    def peak_bytes(self, what: str, config: LLQRConfig) -> int:
        """Return the peak bytes of ``"gradient"`` or ``"refresh"`` beyond parameters and batch."""
        ...


def make_case(framework: str, network: str, batch: int | None = None, device: str = "cpu") -> Case:
    """Return a case.

    Raises:
        ValueError: for unknown frameworks or networks, listing the known ones.
    """
    if network not in BATCH:
        raise ValueError(f"unknown network {network!r}; known: {', '.join(BATCH)}")
    size = batch or BATCH[network]
    if framework == "torch":
        from benchmarks.torch_case import TorchCase

        return TorchCase(network, size, device)
    if framework == "jax":
        from benchmarks.jax_case import JaxCase

        return JaxCase(network, size)
    raise ValueError(f"unknown framework {framework!r}; known: torch, jax")
