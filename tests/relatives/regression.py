"""A small regression in torch and JAX, and every relative as an optimizer for it."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import llqr.jax  # noqa: E402
import llqr.torch  # noqa: E402
from llqr import structures  # noqa: E402
from llqr.config import configure  # noqa: E402
from llqr.curvature import GaussNewton, LossHessian  # noqa: E402
from llqr.jax import relatives as jax_relatives  # noqa: E402
from llqr.relatives import GradientNormalizedNewton, NoiseAdaptiveRates  # noqa: E402
from llqr.torch import relatives as torch_relatives  # noqa: E402

METHODS = {
    "lodo": ("LODO", {"structure": structures.LODO(depth=2)}),
    "lodo_per_layer": ("LODO", {"structure": structures.LODO(depth=2, per="layer")}),
    "mfac": ("MFAC", {"window": 3, "damping": 0.1, "momentum": 0.5}),
    "lanton": ("LANTON", {"noise": NoiseAdaptiveRates(noise_scale=0.1)}),
}
methods = pytest.mark.parametrize("name, settings", METHODS.values(), ids=METHODS)
RATE, DECAY = 0.05, 0.1


def start():
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal((4, 3)), generator.standard_normal((2, 4))
    return {"0.weight": first, "0.bias": np.zeros(4), "2.weight": second, "2.bias": np.ones(2)}


def batch():
    generator = np.random.default_rng(2)
    return generator.standard_normal((6, 3)), generator.standard_normal((6, 2))


def torch_model(dtype=torch.float64):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model = model.to(dtype)
    model.load_state_dict({name: torch.tensor(value) for name, value in start().items()})
    return model


def torch_loss(outputs, data):
    return ((outputs - data[1].to(outputs.dtype)) ** 2).sum(1).mean()


def torch_batch(dtype=torch.float64):
    return tuple(torch.tensor(value, dtype=dtype) for value in batch())


def jax_params():
    return {
        layer: {
            "weight": jnp.asarray(start()[f"{layer}.weight"]),
            "bias": jnp.asarray(start()[f"{layer}.bias"]),
        }
        for layer in ("0", "2")
    }


def jax_outputs(params, data):
    hidden = jnp.tanh(data[0] @ params["0"]["weight"].T + params["0"]["bias"])
    return hidden @ params["2"]["weight"].T + params["2"]["bias"]


def jax_loss(outputs, data):
    return ((outputs - data[1]) ** 2).sum(1).mean()


def jax_gradient(params):
    data = tuple(map(jnp.asarray, batch()))
    return jax.grad(lambda p: jax_loss(jax_outputs(p, data), data))(params)


def train_torch(optimizer, model, steps, **options):
    data = torch_batch(dtype_of(model))
    for _ in range(steps):
        optimizer.zero_grad()
        torch_loss(model(data[0]), data).backward()
        optimizer.step(**options)


def torch_optimizer(model, name, settings):
    kind = getattr(torch_relatives, name)
    return kind(model.named_parameters(), lr=RATE, weight_decay=DECAY, **settings)


def jax_optimizer(name, settings):
    kind = getattr(jax_relatives, name.lower())
    return kind(RATE, weight_decay=DECAY, **settings)


def values(model):
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def check_equal(params, model, tolerance=1e-10):
    for name, value in values(model).items():
        layer, leaf = name.split(".")
        np.testing.assert_allclose(params[layer][leaf], value, rtol=tolerance, atol=tolerance)


def llqr_config(**changes):
    settings = {"curvature": "newton", "structure": "scalar", "inner_solver": "conjugate_gradient"}
    options = {"solver_options": {"steps": 2}, "update_interval": 2, "damping": 1.0}
    return configure(**{**settings, **options, **changes})


NEWTON = {
    "curvature": GaussNewton(metric=LossHessian()),
    "method": GradientNormalizedNewton(solver_steps=40, tolerance=1e-10),
}
RATES = NoiseAdaptiveRates(noise_scale=0.01)


def torch_noise_adaptive(model):
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    inner = llqr.torch.LLQR(base, model, torch_loss, llqr_config())
    return torch_relatives.NoiseAdaptive(inner, model, rates=RATES)


def jax_noise_adaptive():
    inner = llqr.jax.llqr(
        optax.sgd(0.1), outputs_fn=jax_outputs, loss_fn=jax_loss, config=llqr_config()
    )
    return jax_relatives.noise_adaptive(inner, rates=RATES)


def torch_build(key, model):
    """Return the optimizer of this name, and what its step wants."""
    if key in METHODS:
        return torch_optimizer(model, *METHODS[key]), {}
    if key == "noise_adaptive":
        return torch_noise_adaptive(model), {"batch": torch_batch(dtype_of(model))}
    optimizer = torch_relatives.GradientNormalizedNewton(model, torch_loss, **NEWTON)
    return optimizer, {"batch": torch_batch(dtype_of(model))}


def jax_build(key):
    if key in METHODS:
        return jax_optimizer(*METHODS[key])
    if key == "noise_adaptive":
        return jax_noise_adaptive()
    return jax_relatives.gradient_normalized_newton(
        outputs_fn=jax_outputs, loss_fn=jax_loss, **NEWTON
    )


EVERY = (*METHODS, "noise_adaptive", "gradient_normalized_newton")


def dtype_of(model):
    return next(model.parameters()).dtype
