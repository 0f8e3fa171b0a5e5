"""Results of a golden file by dense JAX autodiff: an oracle that shares no code with the library."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

Values = dict[str, np.ndarray]


def _forward(architecture: list, parameters: dict, x: jax.Array) -> jax.Array:
    activations = {
        "tanh": jnp.tanh,
        "gelu_exact": lambda z: 0.5 * z * (1 + jax.lax.erf(z / np.sqrt(2.0))),
        "log_softmax": lambda z: z - jax.scipy.special.logsumexp(z, axis=-1, keepdims=True),
    }
    for index, (kind, activation) in enumerate(architecture):
        kernel, bias = parameters[f"layers_{index}/kernel"], parameters[f"layers_{index}/bias"]
        if kind == "conv3x3_stride2_same":
            x = _convolve(x, kernel)
        elif kind == "flatten_dense":
            x = x.reshape(len(x), -1) @ kernel
        else:
            x = x @ kernel
        x = activations[activation](x + bias)
    return x


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A stride-2 "same" convolution as explicit sums over the 3×3 window."""
    height, width = x.shape[1:3]
    out_h, out_w = -(-height // 2), -(-width // 2)
    pad_h, pad_w = (out_h - 1) * 2 + 3 - height, (out_w - 1) * 2 + 3 - width
    x = jnp.pad(
        x, ((0, 0), (pad_h // 2, pad_h - pad_h // 2), (pad_w // 2, pad_w - pad_w // 2), (0, 0))
    )
    result = 0.0
    for i in range(3):
        for j in range(3):
            window = x[:, i : i + 2 * out_h - 1 : 2, j : j + 2 * out_w - 1 : 2]
            result = result + window @ kernel[i, j]
    return result


def _structures(kernel_shape: tuple[int, ...]) -> dict[str, tuple[Callable, Callable]]:
    """Return name ↦ (initial factors, (factors, X) ↦ U X) for one folded kernel [m, n]."""
    m, n = int(np.prod(kernel_shape[:-1])), kernel_shape[-1]
    eyes = {"a": jnp.eye(m), "b": jnp.eye(n)}
    return {
        "kfac": (lambda: dict(eyes), lambda f, x: f["a"] @ x @ f["b"].T),
        "e-kfac": (
            lambda: {**eyes, "d": jnp.ones((m, n))},
            lambda f, x: f["a"] @ (f["d"] * (f["a"].T @ x @ f["b"])) @ f["b"].T,
        ),
        "sep-e-kfac": (
            lambda: {**eyes, "u": jnp.ones(m), "v": jnp.ones(n)},
            lambda f, x: (
                f["a"] @ jnp.diag(f["u"]) @ f["a"].T @ x @ f["b"] @ jnp.diag(f["v"]) @ f["b"].T
            ),
        ),
    }


def _initial(structure: str, gradient: dict) -> dict:
    layers = sorted({name.split("/")[0] for name in gradient})
    sizes = {k: gradient[f"{k}/bias"].size + gradient[f"{k}/kernel"].size for k in layers}
    if structure == "scalar":
        return {k: jnp.ones(1) for k in layers}
    if structure == "diagonal":
        return {k: jnp.ones(sizes[k]) for k in layers}
    if structure == "dense":
        return {k: jnp.eye(sizes[k]) for k in layers}
    result = {}
    for k in layers:
        result[f"{k}/bias"] = jnp.ones(gradient[f"{k}/bias"].size)
        result[f"{k}/kernel"] = _structures(gradient[f"{k}/kernel"].shape)[structure][0]()
    return result


def _apply(structure: str, factors: dict, gradient: dict) -> dict:
    result = {}
    for k in sorted({name.split("/")[0] for name in gradient}):
        bias, kernel = gradient[f"{k}/bias"], gradient[f"{k}/kernel"]
        if structure in ("scalar", "diagonal", "dense"):
            joined = jnp.concatenate([bias.ravel(), kernel.ravel()])
            joined = factors[k] @ joined if structure == "dense" else factors[k] * joined
            result[f"{k}/bias"] = joined[: bias.size]
            result[f"{k}/kernel"] = joined[bias.size :].reshape(kernel.shape)
        else:
            folded = kernel.reshape(-1, kernel.shape[-1])
            moved = _structures(kernel.shape)[structure][1](factors[f"{k}/kernel"], folded)
            result[f"{k}/bias"] = factors[f"{k}/bias"] * bias
            result[f"{k}/kernel"] = moved.reshape(kernel.shape)
    return result


def results(architecture: list, problem: Values) -> Values:
    """Return every result entry of the golden format for the given inputs; needs 64-bit JAX."""
    parameters = {
        k.removeprefix("params/"): jnp.asarray(v)
        for k, v in problem.items()
        if k.startswith("params/")
    }
    probe = {k.removeprefix("probe/"): v for k, v in problem.items() if k.startswith("probe/")}
    x, y = jnp.asarray(problem["x"]), problem["y"]
    assert x.dtype == jnp.float64, "the oracle needs jax_enable_x64"
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)

    def logprobs(v: jax.Array) -> jax.Array:
        return _forward(architecture, unravel(v), x)

    classes = logprobs(flat).shape[-1]
    smoothing = float(problem["label_smoothing"])
    targets = (1 - smoothing) * np.eye(classes)[y] + smoothing / classes

    def loss(v: jax.Array) -> jax.Array:
        return -(targets * logprobs(v)).sum() / len(y)

    gradient = jax.grad(loss)(flat)
    jacobian = jax.jacobian(logprobs)(flat)
    p = jnp.exp(logprobs(flat))
    centred = jacobian - jnp.einsum("bk,bkd->bd", p, jacobian)[:, None]
    fisher = jnp.einsum("bkd,bk,bke->de", centred, p, centred)
    curvatures = {"newton": jax.hessian(loss)(flat), "fisher_sum": fisher}
    out: Values = {"loss": np.asarray(loss(flat)), "logprobs": np.asarray(logprobs(flat))}

    def put(prefix: str, vector: jax.Array) -> None:
        for name, value in unravel(vector).items():
            out[f"{prefix}/{name}"] = np.asarray(value)

    put("gradient", gradient)
    probe_flat = jax.flatten_util.ravel_pytree({k: jnp.asarray(v) for k, v in probe.items()})[0]
    damping = 1e-2 * jnp.eye(len(flat))
    put(
        "exact_step/newton_damping_1e-2",
        -jnp.linalg.solve(curvatures["newton"] + damping, gradient),
    )
    put(
        "exact_step/fisher_mean_damping_1e-2",
        -jnp.linalg.solve(fisher / len(y) + damping, gradient),
    )
    for name, matrix in curvatures.items():
        put(f"curvature_product/{name}", matrix @ probe_flat)
        out[f"fit/objective_at_identity/{name}"] = np.asarray(
            -gradient @ gradient + 0.5 * gradient @ matrix @ gradient
        )
        for structure in ("scalar", "diagonal", "dense", "kfac", "e-kfac", "sep-e-kfac"):
            _fit(out, f"fit/{name}/{structure}", structure, matrix, gradient, unravel, problem)
    return out


def _fit(
    out: Values,
    prefix: str,
    structure: str,
    matrix: jax.Array,
    gradient: jax.Array,
    unravel: Callable,
    problem: Values,
) -> None:
    named = unravel(gradient)

    def step(factors: dict) -> jax.Array:
        return -jax.flatten_util.ravel_pytree(_apply(structure, factors, named))[0]

    def objective(factors: dict) -> jax.Array:
        delta = step(factors)
        return gradient @ delta + 0.5 * delta @ matrix @ delta

    factors = _initial(structure, named)
    velocity = jax.tree.map(jnp.zeros_like, factors)
    slope = jax.grad(objective)
    momentum, rate = float(problem["inner_momentum"]), float(problem["inner_learning_rate"])
    for _ in range(int(problem["inner_steps"])):
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, slope(factors))
        factors = jax.tree.map(lambda f, v: f - rate * v, factors, velocity)
    out[f"{prefix}/objective"] = np.asarray(objective(factors))
    for name, value in unravel(step(factors)).items():
        out[f"{prefix}/step/{name}"] = np.asarray(value)
    if structure in ("scalar", "diagonal"):
        for layer, value in factors.items():
            out[f"{prefix}/U/{layer}"] = np.asarray(value)
