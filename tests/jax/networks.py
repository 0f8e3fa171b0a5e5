"""Small networks in plain JAX and flax, and the dense curvature of each by autodiff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from jax.flatten_util import ravel_pytree


class Case(NamedTuple):
    """A model, its loss and a batch; ``weights_fn`` as in the shell."""

    outputs_fn: Callable[[Any, Any], Any]
    loss_fn: Callable[[Any, Any], Any]
    params: Any
    batch: Any
    weights_fn: Callable[[Any], Any] | None = None


def normal(seed: int, *shape: int, scale: float = 1.0, dtype: Any = np.float64) -> jax.Array:
    return jnp.asarray(scale * np.random.default_rng(seed).standard_normal(shape), dtype)


def dense(seed: int, n_in: int, n_out: int, dtype: Any = np.float64) -> dict[str, jax.Array]:
    return {
        "kernel": normal(seed, n_in, n_out, scale=n_in**-0.5, dtype=dtype),
        "bias": normal(seed + 1, n_out, scale=0.1, dtype=dtype),
    }


def apply(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


def cross_entropy(outputs: jax.Array, batch: Any) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch[1]).mean()


def half_squared_error(outputs: jax.Array, batch: Any) -> jax.Array:
    return 0.5 * jnp.square(outputs - batch[1]).mean()


def mlp_outputs(params: Any, batch: Any) -> jax.Array:
    return apply(params["second"], jnp.tanh(apply(params["first"], batch[0])))


def mlp(dtype: Any = np.float64, examples: int = 7) -> Case:
    params = {"first": dense(0, 3, 4, dtype), "second": dense(2, 4, 3, dtype)}
    batch = (normal(4, examples, 3, dtype=dtype), jnp.arange(examples) % 3)
    return Case(mlp_outputs, cross_entropy, params, batch)


def mlp_regression() -> Case:
    case = mlp()
    return case._replace(loss_fn=half_squared_error, batch=(case.batch[0], normal(5, 7, 3)))


def mlp_with_intermediate() -> Case:
    def outputs(params: Any, batch: Any) -> Any:
        hidden = jnp.tanh(apply(params["first"], batch[0]))
        return apply(params["second"], hidden), {"hidden": hidden}

    return mlp()._replace(outputs_fn=outputs)


class _Convolutional(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Conv(2, (3, 3), strides=2, param_dtype=jnp.float64)(x)
        x = linen.BatchNorm(use_running_average=True, param_dtype=jnp.float64)(x)
        return linen.Dense(3, param_dtype=jnp.float64)(jax.nn.gelu(x).mean((1, 2)))


def convolutional() -> Case:
    network = _Convolutional()
    images = normal(0, 5, 6, 6, 2)
    variables = network.init(jax.random.key(0), images)
    statistics = {"BatchNorm_0": {"mean": normal(1, 2), "var": 1.0 + normal(2, 2) ** 2}}

    def outputs(params: Any, batch: Any) -> jax.Array:
        return network.apply({"params": params, "batch_stats": statistics}, batch[0])

    return Case(outputs, cross_entropy, variables["params"], (images, jnp.arange(5) % 3))


def transformer() -> Case:
    """One attention layer over embedded tokens, a masked loss in the form (sum, normaliser)."""
    params = {
        "embed": normal(0, 6, 4),
        "qkv": dense(1, 4, 12),
        "out": dense(3, 4, 4),
        "readout": dense(5, 4, 6),
    }
    tokens = jnp.asarray(np.random.default_rng(6).integers(0, 6, (5, 3)))
    mask = jnp.asarray([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], jnp.float64)
    batch = {"tokens": tokens, "targets": (tokens + 1) % 6, "mask": mask}

    def outputs(p: Any, batch: Any) -> jax.Array:
        x = p["embed"][batch["tokens"]]
        q, k, v = jnp.moveaxis(apply(p["qkv"], x).reshape(*x.shape[:2], 3, 2, 2), 2, 0)
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(2.0)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        return apply(p["readout"], x + apply(p["out"], mixed.reshape(x.shape)))

    def loss(logits: jax.Array, batch: Any) -> tuple[jax.Array, jax.Array]:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
        return (losses * batch["mask"]).sum(), batch["mask"].sum()

    return Case(outputs, loss, params, batch, lambda batch: batch["mask"])


def recurrent(cell: type[linen.RNNCellBase]) -> Case:
    """A flax cell scanned over time."""
    network = linen.RNN(cell(2, param_dtype=jnp.float64))
    inputs = normal(0, 4, 5, 2)
    params = network.init(jax.random.key(0), inputs)["params"]

    def outputs(params: Any, batch: Any) -> jax.Array:
        return network.apply({"params": params}, batch[0])[:, -1]

    return Case(outputs, half_squared_error, params, (inputs, normal(1, 4, 2)))


def connectionist() -> Case:
    """Connectionist temporal classification with padded frames."""
    frame_padding = jnp.asarray(np.arange(6)[None] >= np.array([6, 4, 5])[:, None], jnp.float64)
    batch = {
        "x": normal(0, 3, 6, 2),
        "frame_padding": frame_padding,
        "labels": jnp.asarray([[1, 2], [3, 0], [2, 2]]),
        "label_padding": jnp.asarray([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]),
    }

    def outputs(params: Any, batch: Any) -> jax.Array:
        return apply(params["b"], jnp.tanh(apply(params["a"], batch["x"])))

    def loss(logits: jax.Array, batch: Any) -> jax.Array:
        return optax.ctc_loss(
            logits, batch["frame_padding"], batch["labels"], batch["label_padding"]
        ).mean()

    params = {"a": dense(1, 2, 3), "b": dense(3, 3, 4)}
    return Case(outputs, loss, params, batch, lambda batch: 1.0 - batch["frame_padding"])


QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""Compiler options for tests: their programs run once, so compiling takes nearly all of their time."""


def quick_jit(function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
    return jax.jit(function, compiler_options=QUICK, **settings)


def split_outputs(case: Case, params: Any) -> dict[str, jax.Array]:
    """Return the outputs of the model by name."""
    result = case.outputs_fn(params, case.batch)
    output, more = result if isinstance(result, tuple) else (result, {})
    return {"output": output, **more}


def loss_of(case: Case, output: jax.Array) -> jax.Array:
    """Return the mean loss as a function of the output."""
    loss = case.loss_fn(output, case.batch)
    return loss[0] / loss[1] if isinstance(loss, tuple) else loss


def mean_loss(case: Case, params: Any) -> jax.Array:
    """Return the mean loss as a function of the parameters."""
    return loss_of(case, split_outputs(case, params)["output"])


class Dense(NamedTuple):
    """Dense derivatives of a case in the order of ``ravel_pytree``, in NumPy.

    Attributes:
        gradient: of the mean loss [n].
        hessian: of the mean loss [n, n].
        jacobians: of every output [outputs, n], by name.
        loss_hessian: of the mean loss in the output [outputs, outputs].
        categorical: second derivative of the weighted sum of the events' KL divergences in the output.
    """

    gradient: np.ndarray
    hessian: np.ndarray
    jacobians: dict[str, np.ndarray]
    loss_hessian: np.ndarray
    categorical: np.ndarray


def dense_oracle(case: Case) -> Dense:
    """Return the dense derivatives of a case, by autodiff of the flattened functions."""
    vector, restore = ravel_pytree(case.params)

    def flat_outputs(vector: jax.Array) -> dict[str, jax.Array]:
        return {key: x.ravel() for key, x in split_outputs(case, restore(vector)).items()}

    def derivatives(vector: jax.Array) -> Dense:
        output = split_outputs(case, restore(vector))["output"]
        weights = jnp.ones(output.shape[:-1])
        given = None if case.weights_fn is None else case.weights_fn(case.batch)
        if given is not None and not isinstance(given, dict):
            weights = given

        def divergence(flat: jax.Array) -> jax.Array:
            here, there = jax.nn.log_softmax(output), jax.nn.log_softmax(flat.reshape(output.shape))
            return ((jnp.exp(here) * (here - there)).sum(-1) * weights).sum()

        return Dense(
            jax.grad(lambda v: mean_loss(case, restore(v)))(vector),
            jax.hessian(lambda v: mean_loss(case, restore(v)))(vector),
            jax.jacrev(flat_outputs)(vector),
            jax.hessian(lambda flat: loss_of(case, flat.reshape(output.shape)))(output.ravel()),
            jax.hessian(divergence)(output.ravel()),
        )

    return jax.tree.map(np.asarray, quick_jit(derivatives)(vector))
