"""Convolutions in one layout, whatever differentiation made of them, for CPUs.

The derivatives of a convolution are convolutions in which other axes play the parts of batch, feature and
space. XLA's CPU backend brings those into the layout of its fast kernels, but only outside of branches and
loops; inside, where a refresh runs, it falls back to a plain loop nest, some 30 times slower. So the axes are
put in place here: [batch, space…, feature] and [space…, in, out].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun


def with_fast_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function with every convolution in the fast layout, where the backend is a CPU.

    Args:
        function: pytrees of arrays ↦ pytree of arrays; may close over arrays, tracers included.
    """
    if jax.default_backend() != "cpu":
        return function

    def rewritten(*arguments: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        leaves = jax.tree.leaves(arguments)
        if _has_convolution(traced.jaxpr):
            results = _evaluate(traced, leaves)
        else:
            results = jaxpr_as_fun(traced)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return rewritten


def _has_convolution(jaxpr: Any) -> bool:
    return any(
        equation.primitive is lax.conv_general_dilated_p
        or any(_has_convolution(inner.jaxpr) for inner in _inner(equation.params.values()))
        for equation in jaxpr.eqns
    )


def _inner(values: Any) -> Iterator[ClosedJaxpr]:
    """Yield the functions among the parameters of an equation: bodies of loops, branches, calls."""
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _inner(value)


def _evaluate(function: ClosedJaxpr, arguments: Sequence[Any]) -> list[Any]:
    """Run the equations of a traced function one by one, convolutions in the fast layout."""
    jaxpr = function.jaxpr
    values = dict(zip(jaxpr.constvars, function.consts, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        results = _run(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _run(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    if equation.primitive is lax.conv_general_dilated_p:
        return [_convolution(*inputs, **equation.params)]
    params = {name: _rewritten(value) for name, value in equation.params.items()}
    bound = equation.primitive.get_bind_params(params)
    # Up to jax 0.9 the functions to be called are returned apart.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    results = equation.primitive.bind(*functions, *inputs, **params)
    return results if equation.primitive.multiple_results else [results]


def _rewritten(value: Any) -> Any:
    """Return a parameter of an equation, its functions' convolutions in the fast layout."""
    if isinstance(value, (tuple, list)) and any(_has_convolution(f.jaxpr) for f in _inner(value)):
        return type(value)(_rewritten(each) for each in value)
    if not isinstance(value, ClosedJaxpr) or not _has_convolution(value.jaxpr):
        return value
    shapes = [
        jax.ShapeDtypeStruct(each.shape, each.dtype, weak_type=getattr(each, "weak_type", False))
        for each in value.in_avals
    ]
    return jax.make_jaxpr(lambda *inputs: _evaluate(value, inputs))(*shapes)


def _convolution(
    lhs: Array, rhs: Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> Array:
    """Transpose, convolve in the fast layout, transpose back."""
    last = lhs.ndim - 1
    batch, feature, *lhs_space = dimension_numbers.lhs_spec
    out, into, *rhs_space = dimension_numbers.rhs_spec
    images = (0, last, *range(1, last))
    result = lax.conv_general_dilated_p.bind(
        lax.transpose(lhs, (batch, *lhs_space, feature)),
        lax.transpose(rhs, (*rhs_space, into, out)),
        dimension_numbers=lax.ConvDimensionNumbers(
            images, (last, last - 1, *range(last - 1)), images
        ),
        **params,
    )
    batch, feature, *out_space = dimension_numbers.out_spec
    places = (batch, *out_space, feature)
    return lax.transpose(result, tuple(places.index(axis) for axis in range(lhs.ndim)))
