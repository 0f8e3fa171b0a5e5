"""The benchmark networks in JAX, as plain functions of a parameter dictionary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import llqr.jax
from benchmarks import cases
from llqr.config import LLQRConfig
from llqr.curvature import quadratic_model
from llqr.preconditioner import Preconditioner, PreconditionerState
from llqr.structures import fold_output_last

Parameters = dict[str, dict[str, jax.Array]]


def _dense(rng: np.random.Generator, n_in: int, n_out: int) -> dict[str, jax.Array]:
    kernel = rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(n_out, jnp.float32)}


def _norm(width: int) -> dict[str, jax.Array]:
    return {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}


def _linear(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def _layer_norm(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * layer["scale"] + layer["bias"]


def transformer_parameters(rng: np.random.Generator) -> Parameters:
    """Return the transformer's parameters."""
    width = cases.WIDTH
    table = rng.standard_normal((cases.VOCABULARY, width))
    position = 0.02 * rng.standard_normal((cases.TOKENS, width))
    result: Parameters = {
        "embed": {"table": jnp.asarray(table, jnp.float32)},
        "position": {"table": jnp.asarray(position, jnp.float32)},
    }
    for index in range(cases.DEPTH):
        result[f"qkv_{index}"] = _dense(rng, width, 3 * width)
        result[f"out_{index}"] = _dense(rng, width, width)
        result[f"up_{index}"] = _dense(rng, width, cases.HIDDEN)
        result[f"down_{index}"] = _dense(rng, cases.HIDDEN, width)
        result[f"norm1_{index}"], result[f"norm2_{index}"] = _norm(width), _norm(width)
    return {**result, "norm": _norm(width), "readout": _dense(rng, width, cases.CLASSES)}


def transformer(p: Parameters, batch: Any) -> jax.Array:
    """Map tokens [B, T] to logits [B, classes] from the last token."""
    x = p["embed"]["table"][batch[0]] + p["position"]["table"]
    size, tokens, width = x.shape
    for index in range(cases.DEPTH):
        heads = _linear(p[f"qkv_{index}"], _layer_norm(p[f"norm1_{index}"], x))
        q, k, v = jnp.moveaxis(heads.reshape(size, tokens, 3, cases.HEADS, -1), 2, 0)
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + _linear(p[f"out_{index}"], mixed.reshape(size, tokens, width))
        hidden = jax.nn.gelu(
            _linear(p[f"up_{index}"], _layer_norm(p[f"norm2_{index}"], x)), approximate=False
        )
        x = x + _linear(p[f"down_{index}"], hidden)
    return _linear(p["readout"], _layer_norm(p["norm"], x)[:, -1])


def _conv_parameters(
    rng: np.random.Generator, size: int, channels_in: int, channels: int
) -> dict[str, jax.Array]:
    kernel = rng.standard_normal((size, size, channels_in, channels))
    scaled = kernel / np.sqrt(size * size * channels_in / 2)
    return {"kernel": jnp.asarray(scaled, jnp.float32), **_norm(channels)}


def resnet_parameters(rng: np.random.Generator) -> Parameters:
    """Return ResNet-18's parameters; every convolution carries its normalisation's scale and bias."""
    result: Parameters = {"stem": _conv_parameters(rng, 3, 3, 64)}
    channels_in = 64
    for stage, (channels, stride) in enumerate(cases.STAGES):
        for block in range(2):
            name = f"stage{stage}_block{block}"
            result[f"{name}_conv1"] = _conv_parameters(rng, 3, channels_in, channels)
            result[f"{name}_conv2"] = _conv_parameters(rng, 3, channels, channels)
            if block == 0 and (stride != 1 or channels_in != channels):
                result[f"{name}_shortcut"] = _conv_parameters(rng, 1, channels_in, channels)
            channels_in = channels
    return {**result, "readout": _dense(rng, 512, 10)}


def _conv(layer: dict[str, jax.Array], x: jax.Array, stride: int) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y * layer["scale"] + layer["bias"]  # BatchNorm with unit running statistics


def resnet18(p: Parameters, batch: Any) -> jax.Array:
    """Map images [B, 32, 32, 3] to logits [B, 10]."""
    x = jax.nn.relu(_conv(p["stem"], batch[0], 1))
    for stage, (_, stage_stride) in enumerate(cases.STAGES):
        for block in range(2):
            name, stride = f"stage{stage}_block{block}", stage_stride if block == 0 else 1
            y = _conv(p[f"{name}_conv2"], jax.nn.relu(_conv(p[f"{name}_conv1"], x, stride)), 1)
            shortcut = p.get(f"{name}_shortcut")
            x = jax.nn.relu(y + (x if shortcut is None else _conv(shortcut, x, stride)))
    return _linear(p["readout"], x.mean((1, 2)))


def loss_fn(outputs: jax.Array, batch: Any) -> jax.Array:
    """Return the mean cross-entropy."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch[1][:, None], axis=1)
    return -picked.mean()


class JaxCase:
    """See :class:`benchmarks.cases.Case`."""

    def __init__(self, network: str, batch: int) -> None:
        rng = np.random.default_rng(0)
        if network == "transformer":
            self.outputs_fn, self.params = transformer, transformer_parameters(rng)
            x = rng.integers(0, cases.VOCABULARY, (batch, cases.TOKENS))
            y = rng.integers(0, cases.CLASSES, batch)
        else:
            self.outputs_fn, self.params = resnet18, resnet_parameters(rng)
            x = rng.standard_normal((batch, 32, 32, 3)).astype(np.float32)
            y = rng.integers(0, 10, batch)
        self.batch = (jnp.asarray(x), jnp.asarray(y))
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))

    def _gradient(self) -> Callable[..., Any]:
        def loss(params: Parameters, batch: Any) -> jax.Array:
            return loss_fn(self.outputs_fn(params, batch), batch)

        return jax.jit(jax.grad(loss))

    def _fit(self, config: LLQRConfig) -> tuple[Callable[..., Any], PreconditionerState]:
        named = {f"{a}/{b}": value for a, own in self.params.items() for b, value in own.items()}
        shapes = {name: value.shape for name, value in named.items()}
        preconditioner = Preconditioner(llqr.jax.JaxBackend(), config, shapes, fold_output_last)

        def fit(params: Parameters, batch: Any, state: PreconditionerState) -> PreconditionerState:
            problem = llqr.jax.linearise(
                self.outputs_fn,
                loss_fn,
                params,
                batch,
                curvature=config.curvature,
                chunk_size=config.chunk_size,
            )
            model = quadratic_model(config.curvature, problem)
            sources = {"input": model.gradient, "gradient": model.gradient}
            sources["update"] = {name: jnp.sign(g) for name, g in model.gradient.items()}
            return preconditioner.fit(state, model, sources)

        return jax.jit(fit), preconditioner.init(named)

    def gradient(self) -> Callable[[], None]:
        """Return one gradient of the batch."""
        compiled = self._gradient()

        def run() -> None:
            jax.block_until_ready(compiled(self.params, self.batch))

        return run

    def fit(self, config: LLQRConfig) -> Callable[[], PreconditionerState]:
        """Return one refresh."""
        compiled, state = self._fit(config)
        return lambda: jax.block_until_ready(compiled(self.params, self.batch, state))

    def peak_bytes(self, what: str, config: LLQRConfig) -> int:
        """Return temporary plus output bytes of the compiled program, as XLA plans them."""
        if what == "gradient":
            lowered = self._gradient().lower(self.params, self.batch)
        else:
            compiled, state = self._fit(config)
            lowered = compiled.lower(self.params, self.batch, state)
        plan = lowered.compile().memory_analysis()
        return plan.temp_size_in_bytes + plan.output_size_in_bytes
