"""The golden network in JAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import llqr.jax
from golden.file import GoldenFile
from llqr.curvature import AbstractCurvature, quadratic_model

jax.config.update("jax_enable_x64", True)

Tree = dict[str, dict[str, jax.Array]]


def forward(architecture: tuple[tuple[str, str], ...], parameters: Tree, x: jax.Array) -> jax.Array:
    """Return log-probabilities [B, classes]."""
    for index, (kind, activation) in enumerate(architecture):
        layer = parameters[f"layers_{index}"]
        x = _activate(activation, _linear(kind, x, layer["kernel"]) + layer["bias"])
    return x


def _linear(kind: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    if kind == "conv3x3_stride2_same":
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    if kind == "flatten_dense":
        x = x.reshape(x.shape[0], -1)
    return x @ kernel


def _activate(name: str, x: jax.Array) -> jax.Array:
    if name == "tanh":
        return jnp.tanh(x)
    if name == "gelu_exact":
        return jax.nn.gelu(x, approximate=False)
    return jax.nn.log_softmax(x)


class JaxProblem:
    """See :class:`golden.recompute.Problem`."""

    def __init__(self, golden: GoldenFile) -> None:
        self.backend = llqr.jax.JaxBackend()
        self.architecture = golden.architecture
        self.smoothing = golden.label_smoothing
        self.batch = (jnp.asarray(golden.x), jnp.asarray(golden.y))
        self.parameters: Tree = {}
        for name, value in golden.parameters.items():
            layer, _, leaf = name.partition("/")
            self.parameters.setdefault(layer, {})[leaf] = jnp.asarray(value)

    def _outputs(self, parameters: Tree, batch: Any) -> jax.Array:
        return forward(self.architecture, parameters, batch[0])

    def _loss(self, outputs: jax.Array, batch: Any) -> jax.Array:
        classes = outputs.shape[-1]
        targets = (1.0 - self.smoothing) * jax.nn.one_hot(batch[1], classes, dtype=outputs.dtype)
        targets = targets + self.smoothing / classes
        return -(targets * jax.nn.log_softmax(outputs)).sum(-1).mean()

    def outputs(self) -> np.ndarray:
        """Return the log-probabilities."""
        return np.asarray(self._outputs(self.parameters, self.batch))

    def loss(self) -> float:
        """Return the mean cross-entropy."""
        return float(self._loss(self._outputs(self.parameters, self.batch), self.batch))

    def model(self, curvature: AbstractCurvature) -> Any:
        """Return the quadratic model."""
        problem = llqr.jax.linearise(
            self._outputs, self._loss, self.parameters, self.batch, curvature=curvature
        )
        model = quadratic_model(curvature, problem)
        return replace(model, curvature_product=jax.jit(model.curvature_product))

    def to_framework(self, values: dict[str, np.ndarray]) -> Any:
        """Return JAX arrays."""
        return {name: jnp.asarray(value) for name, value in values.items()}

    def to_numpy(self, values: Any) -> dict[str, np.ndarray]:
        """Return NumPy arrays."""
        return {name: np.asarray(value) for name, value in values.items()}


def make_problem(golden: GoldenFile) -> JaxProblem:
    """Return the golden problem in JAX."""
    return JaxProblem(golden)
