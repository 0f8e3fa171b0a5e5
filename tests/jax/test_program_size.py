"""How often a compiled fit holds the network: compilers copy it wherever it is used."""

from collections import Counter

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.extend.core import ClosedJaxpr

import llqr.jax
from llqr.config import configure
from llqr.jax.backend import JaxBackend
from llqr.quadratic import QuadraticModel
from llqr.ridge import AdaptiveRidge
from llqr.solvers import ConjugateGradient, FactorProblem
from llqr.structures import Diagonal, Span
from llqr.structures.blocks import make_blocks

EXAMPLES = 6


def primitives(jaxpr):
    """Count primitives, those of branches and loops included."""
    count = Counter()
    for equation in jaxpr.eqns:
        name, outputs = equation.primitive.name, [value.aval.shape for value in equation.outvars]
        # An inner product of two vectors is no matrix product.
        count["dot" if name == "dot_general" and outputs == [()] else name] += 1
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_function):
            if _is_function(value):
                count += primitives(value.jaxpr)
    return count


def _is_function(value):
    return isinstance(value, ClosedJaxpr)


def update_of(chunk_size, **settings):
    """Return the primitives of one update; the network holds one sine and one matrix product."""
    params = {"w": jnp.ones((3, 2))}
    batch = (jnp.ones((EXAMPLES, 3)), jnp.ones((EXAMPLES, 2)))
    optimizer = llqr.jax.llqr(
        optax.sgd(0.1),
        outputs_fn=lambda p, batch: jnp.sin(batch[0] @ p["w"]),
        loss_fn=lambda outputs, batch: jnp.abs(outputs - batch[1]).sum() / EXAMPLES,
        config=configure(curvature="gauss_newton", chunk_size=chunk_size, **settings),
    )
    state = optimizer.init(params)
    traced = jax.make_jaxpr(optimizer.update)(params, state, params, batch=batch)
    return primitives(traced.jaxpr)


CONJUGATE_GRADIENT = {"structure": "diagonal", "inner_solver": "conjugate_gradient"}
ADAPTIVE = {
    "structure": Span(per="layer", directions=("gradient",)),
    "inner_solver": "direct",
    "solver_options": {"relative_ridge": AdaptiveRidge()},
}


@pytest.mark.parametrize(
    ("settings", "forward", "forward_in_chunks"),
    [
        # Linearised once, or for the gradient and where products are taken.
        (CONJUGATE_GRADIENT, 1, 2),
        # And for the loss after the step, which the ridge follows.
        (ADAPTIVE, 2, 3),
    ],
)
def test_a_fit_holds_few_forward_passes(settings, forward, forward_in_chunks):
    assert update_of(None, **settings)["sin"] == forward
    assert update_of(EXAMPLES // 2, **settings)["sin"] == forward_in_chunks
    # A rest of another size is the whole of it once more.
    assert update_of(4, **settings)["sin"] == 2 * forward_in_chunks


def test_conjugate_gradient_holds_one_product():
    """Forward, gradient, and one product of a tangent and a cotangent; a diagonal multiplies no matrices."""
    assert update_of(None, **CONJUGATE_GRADIENT)["dot_general"] == 4


def solve_of(tensors):
    """Return the primitives of conjugate gradient with a diagonal on so many vectors."""
    backend, shapes = JaxBackend(), {f"w{index}": (3,) for index in range(tensors)}
    blocks = make_blocks(shapes, Diagonal())

    def solve(gradient):
        model = QuadraticModel(gradient=gradient, curvature_product=lambda v: v)
        problem = FactorProblem(backend, model, blocks, {"input": gradient})
        start = {b.name: b.structure.init(backend, b.block_shape, jnp.ones(())) for b in blocks}
        return ConjugateGradient().solve(problem, start).factors

    gradient = {name: jnp.ones(shape) for name, shape in shapes.items()}
    return primitives(jax.make_jaxpr(solve)(gradient).jaxpr)


def test_the_arithmetic_of_conjugate_gradient_does_not_grow_with_the_number_of_tensors():
    few, many = solve_of(2), solve_of(20)
    for name in ("while", "cond", "select_n", "max", "sub", "add"):
        assert few[name] == many[name] > 0
