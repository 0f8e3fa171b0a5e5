"""Convolutions in the fast layout: the same values, in branches and loops too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from llqr.jax.convolutions import _inner, with_fast_convolutions

SETTINGS: dict[str, dict[str, Any]] = {
    "strided and dilated": {"window_strides": (2, 1), "rhs_dilation": (1, 2)},
    "transposed": {"lhs_dilation": (2, 3), "padding": ((1, 1), (0, 2))},
    "grouped": {"feature_group_count": 2},
    "odd layout": {"dimension_numbers": ("HNCW", "IHOW", "CWNH")},
}


def random(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def loss(kernel: jax.Array, images: jax.Array, settings: dict[str, Any]) -> jax.Array:
    """Axes of images and kernel as in NHWC and HWIO, moved to where the settings want them."""
    numbers = settings.get("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    images = images.transpose(["NHWC".index(axis) for axis in numbers[0]])
    kernel = kernel.transpose(["HWIO".index(axis) for axis in numbers[1]])
    settings = {
        "window_strides": (1, 1),
        "padding": "SAME",
        **settings,
        "dimension_numbers": numbers,
    }
    result = jnp.tanh(lax.conv_general_dilated(images, kernel, **settings))
    weights = jnp.arange(result.size, dtype=result.dtype).reshape(result.shape)
    return jnp.sum(result * jnp.cos(weights))


def refresh(settings: dict[str, Any], images: jax.Array) -> Any:
    """Gradients and forward products in a branch, a loop, a scan and a compiled function."""
    gradient = jax.grad(lambda kernel: loss(kernel, images, settings))

    def product(kernel: jax.Array) -> jax.Array:
        return jax.jvp(gradient, (kernel,), (jnp.ones_like(kernel),))[1]

    def function(kernel: jax.Array, steps: jax.Array) -> dict[str, jax.Array]:
        branch = lax.cond(steps > 1, gradient, lambda value: value, kernel)
        # A number of steps that is traced makes a while loop.
        loop = lax.fori_loop(0, steps, lambda i, value: value - 0.1 * gradient(value), kernel)
        scan, _ = lax.scan(lambda value, _: (value - 0.1 * product(value), None), kernel, None, 2)
        return {"branch": branch, "loop": loop, "scan": scan, "call": jax.jit(product)(kernel)}

    return function


def layouts(jaxpr: Any) -> set[lax.ConvDimensionNumbers]:
    """All layouts of convolutions, those in inner functions included."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive is lax.conv_general_dilated_p:
            found.add(equation.params["dimension_numbers"])
        for inner in _inner(equation.params.values()):
            found |= layouts(inner.jaxpr)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_values_stay_and_every_layout_is_the_fast_one(name):
    settings = SETTINGS[name]
    images = random(0, 3, 6, 5, 4)
    kernel = 0.1 * random(1, 3, 2, 4 // settings.get("feature_group_count", 1), 2)
    function = refresh(settings, images)
    fast = with_fast_convolutions(function)
    expected = jax.jit(function)(kernel, 3)
    for key, value in jax.jit(fast)(kernel, 3).items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-11, atol=1e-12, err_msg=key)
    wanted = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    assert layouts(jax.make_jaxpr(fast)(kernel, 3).jaxpr) == {wanted}
    assert layouts(jax.make_jaxpr(function)(kernel, 3).jaxpr) != {wanted}


@pytest.mark.parametrize("space", [1, 3])
def test_other_numbers_of_axes(space):
    images, kernel = random(2, 2, *(4,) * space, 3), random(3, *(2,) * space, 3, 5)
    letters = "WHD"[:space]
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")

    def value(kernel: jax.Array) -> jax.Array:
        return jnp.sum(
            lax.conv_general_dilated(
                images, kernel, (1,) * space, "SAME", dimension_numbers=numbers
            )
            ** 2
        )

    gradient = jax.grad(value)
    fast = with_fast_convolutions(gradient)
    np.testing.assert_allclose(fast(kernel), gradient(kernel), rtol=1e-12)
    assert len(layouts(jax.make_jaxpr(fast)(kernel).jaxpr)) == 1


def test_the_rest_of_a_network_is_run_as_it_was():
    images, key = random(4, 2, 4, 4, 1), jax.random.key(5)

    @jax.custom_vjp
    def doubled(x):
        return 2.0 * x

    doubled.defvjp(lambda x: (2.0 * x, None), lambda _, cotangent: (3.0 * cotangent,))

    def network(parameters: dict[str, jax.Array], weak: float) -> dict[str, Any]:
        noise = jax.random.bernoulli(key, 0.5, images.shape)
        hidden = lax.conv(
            (images * noise).transpose(0, 3, 1, 2), parameters["kernel"], (1, 1), "SAME"
        )
        hidden = jax.checkpoint(jax.nn.relu)(doubled(hidden)) * weak
        return {"sum": hidden.sum(), "count": jnp.argmax(hidden), "untouched": parameters["kernel"]}

    def derivative(parameters: dict[str, jax.Array], weak: float) -> Any:
        return jax.value_and_grad(lambda p: network(p, weak)["sum"])(parameters)

    parameters = {"kernel": random(6, 2, 1, 3, 3)}
    for function in (network, derivative):
        expected = function(parameters, 0.5)
        found = with_fast_convolutions(function)(parameters, 0.5)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, expected)


def test_without_convolutions_nothing_is_rewritten():
    def function(x: jax.Array) -> Any:
        return {"y": lax.cond(x[0] > 0, jnp.sin, jnp.cos, x) @ x}

    expected = jax.make_jaxpr(function)(jnp.ones(3))
    found = jax.make_jaxpr(with_fast_convolutions(function))(jnp.ones(3))
    assert str(found) == str(expected)
