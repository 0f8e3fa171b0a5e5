"""Small networks for the exact reference, written once for torch and JAX."""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from llqr.reference import Layer

FRAMEWORKS = ("torch", "jax")
NETWORKS = (
    "mlp_tanh",
    "mlp_gelu",
    "mlp_relu",
    "convolutional",
    "residual",
    "rosenbrock_one_layer",
    "rosenbrock_two_layers",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framework:
    """What the networks need: arrays, nonlinearities, a convolution, and the module under test."""

    reference: ModuleType
    array: Callable[[Any], Any]
    stack: Callable[[list], Any]
    activations: dict[str, Callable[[Any], Any]]
    exp: Callable[[Any], Any]
    log: Callable[[Any], Any]
    convolve: Callable[[Any, Any, Any], Any]  # stride 2, padding "same"
    image: Callable[[np.ndarray], np.ndarray]  # from NHWC
    kernel: Callable[[np.ndarray], np.ndarray]  # from HWIO
    kernel_to_hwio: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    layers: list[Layer]
    inputs: Any
    loss: Callable[[Any], Any]
    divergence: Callable[[Any, Any], Any]


def load(framework: str) -> Framework:
    """Import one framework, or skip the test where it is not installed."""
    return _torch() if framework == "torch" else _jax()


def _torch() -> Framework:
    torch = pytest.importorskip("torch")
    from llqr.torch import reference

    def convolve(x, kernel, bias):
        # "same" at stride 2 puts the odd row and column of padding behind, as XLA does.
        pads = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in x.shape[2:]]
        height, width = ((pad // 2, pad - pad // 2) for pad in pads)
        x = torch.nn.functional.pad(x, (*width, *height))
        return torch.nn.functional.conv2d(x, kernel, bias, stride=2)

    return Framework(
        reference=reference,
        array=lambda x: torch.tensor(np.array(x)),
        stack=torch.stack,
        activations={
            "tanh": torch.tanh,
            "gelu_exact": torch.nn.functional.gelu,
            "relu": torch.relu,
            "log_softmax": lambda x: torch.log_softmax(x, -1),
        },
        exp=torch.exp,
        log=torch.log,
        convolve=convolve,
        image=lambda x: x.transpose(0, 3, 1, 2),
        kernel=lambda x: x.transpose(3, 2, 0, 1),
        kernel_to_hwio=lambda x: x.transpose(2, 3, 1, 0),
    )


def _jax() -> Framework:
    jax = pytest.importorskip("jax")
    from llqr.jax import reference

    def convolve(x, kernel, bias):
        numbers = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)
            + bias
        )

    return Framework(
        reference=reference,
        array=jax.numpy.asarray,
        stack=jax.numpy.stack,
        activations={
            "tanh": jax.numpy.tanh,
            "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
            "relu": jax.nn.relu,
            "log_softmax": jax.nn.log_softmax,
        },
        exp=jax.numpy.exp,
        log=jax.numpy.log,
        convolve=convolve,
        image=lambda x: x,
        kernel=lambda x: x,
        kernel_to_hwio=lambda x: x,
    )


def build(framework: Framework, network: str) -> Case:
    """Build a network of `NETWORKS`, with the same numbers in both frameworks."""
    rng = np.random.default_rng(7)
    if network.startswith("mlp_"):
        activation = {"mlp_gelu": "gelu_exact"}.get(network, network.removeprefix("mlp_"))
        return _classifier(
            framework, rng.normal(size=(5, 4)), _mlp(framework, rng, activation), rng
        )
    if network == "convolutional":
        return _classifier(
            framework,
            framework.image(rng.normal(size=(2, 5, 6, 2))),
            _convolutional(framework, rng),
            rng,
        )
    if network == "residual":
        return _classifier(framework, rng.normal(size=(4, 3)), _residual(framework, rng), rng)
    return _rosenbrock(framework, network)


def dense(framework: Framework, rng, name: str, sizes: tuple[int, int], activation=None) -> Layer:
    """x ↦ activation(x W + b), W [in, out]."""
    function = framework.activations.get(activation, lambda x: x)
    kernel = rng.normal(size=sizes) / np.sqrt(sizes[0])
    parameters = {"kernel": kernel, "bias": 0.1 * rng.normal(size=sizes[1:])}
    return Layer(
        name,
        lambda x, theta: function(x @ theta["kernel"] + theta["bias"]),
        {key: framework.array(value) for key, value in parameters.items()},
    )


def _mlp(framework: Framework, rng, activation: str) -> list[Layer]:
    hidden = [dense(framework, rng, "hidden", (4, 5), activation)]
    if activation == "tanh":  # one deeper network is enough, and JAX compiles every layer
        hidden.append(dense(framework, rng, "hidden_1", (5, 5), activation))
    return [*hidden, dense(framework, rng, "readout", (5, 3))]


def _convolutional(framework: Framework, rng) -> list[Layer]:
    def convolution(name: str, channels: tuple[int, int]) -> Layer:
        kernel = framework.kernel(rng.normal(size=(3, 3, *channels)) / np.sqrt(9 * channels[0]))
        bias = 0.1 * rng.normal(size=channels[1])
        return Layer(
            name,
            lambda x, theta: framework.activations["tanh"](
                framework.convolve(x, theta[0], theta[1])
            ),
            [framework.array(kernel), framework.array(bias)],
        )

    def flatten(x, _):
        return x.reshape(x.shape[0], -1)

    readout = rng.normal(size=(2, 2, 3, 3)) / np.sqrt(12)
    # Rows follow the framework's own order of height, width and channel.
    rows = framework.image(readout.transpose(3, 0, 1, 2)).reshape(3, 12).T
    return [
        convolution("convolution_0", (2, 2)),
        convolution("convolution_1", (2, 3)),
        Layer("flatten", flatten),
        Layer("readout", lambda x, kernel: x @ kernel, framework.array(rows)),
    ]


def _residual(framework: Framework, rng) -> list[Layer]:
    def block(name: str) -> Layer:
        inner = dense(framework, rng, "inner", (3, 4), "gelu_exact")
        outer = dense(framework, rng, "outer", (4, 3))

        def function(x, theta):
            return x + outer.function(inner.function(x, theta["inner"]), theta["outer"])

        return Layer(name, function, {"inner": inner.parameters, "outer": outer.parameters})

    return [block("block_0"), block("block_1")]


def _classifier(framework: Framework, inputs: np.ndarray, layers: list[Layer], rng) -> Case:
    labels = framework.array(np.eye(3)[rng.integers(3, size=len(inputs))])
    log_softmax = framework.activations["log_softmax"]
    return Case(
        layers=layers,
        inputs=framework.array(inputs),
        loss=lambda logits: -(labels * log_softmax(logits)).sum(-1).mean(),
        divergence=framework.reference.categorical_kl,
    )


def _rosenbrock(framework: Framework, network: str) -> Case:
    """R(u1, u2) = (a − u1)² + b (u2 − u1²)² at (−1.2, 1), input (a, b) = (1, 100)."""

    def whole(x, u):
        return framework.stack([(x[0] - u[0]) ** 2 + x[1] * (u[1] - u[0] ** 2) ** 2])

    def first(x, u):
        return framework.stack([x[0] ** 2 - 2.0 * x[0] * u, u**2, x[1]])

    def second(x, u):
        return framework.stack([x[0] + x[1] + x[2] * (u - x[1]) ** 2])

    u = np.array([-1.2, 1.0])
    one_layer = [Layer("rosenbrock", whole, framework.array(u))]
    two_layers = [
        Layer("first", first, framework.array(u[0])),
        Layer("second", second, framework.array(u[1])),
    ]
    return Case(
        layers=one_layer if network == "rosenbrock_one_layer" else two_layers,
        inputs=framework.array(np.array([1.0, 100.0])),
        loss=lambda x: x[0],
        divergence=framework.reference.gaussian_kl,
    )
