"""Every solver and structure gives the same factors in NumPy, torch and JAX (float64)."""

import numpy as np
import pytest

from llqr.directions import joined
from llqr.quadratic import QuadraticModel
from llqr.solvers import Adam, ConjugateGradient, DirectSolve, FactorProblem, GradientDescent
from tests import backends
from tests.solvers.quadratics import SHAPES, Case, unflatten, vector
from tests.solvers.test_safety import STRUCTURES

SOLVERS = {
    "momentum": GradientDescent(steps=6),
    "adam": Adam(steps=6, learning_rate=0.01),
    "conjugate_gradient": ConjugateGradient(steps=4),
    "direct": DirectSolve(),
    "direct_ridge": DirectSolve(relative_ridge=1.0),
}


def _solve(case, solver, framework, gram):
    backend, to, back = backends.make(framework)
    matrix, order = to(case.matrix), list(SHAPES)

    def product(direction):
        return unflatten(
            matrix @ backend.concatenate([direction[name].reshape((-1,)) for name in order])
        )

    def gram_matrix(groups):
        whole = joined(groups)

        def flat(row):
            direction = whole.combine(row)
            return backend.concatenate([direction[name].reshape((-1,)) for name in order])

        columns = backend.map(flat, to(np.eye(whole.count)))
        return columns @ matrix @ columns.T

    sources = {
        key: {name: to(value) for name, value in values.items()}
        for key, values in case.sources.items()
    }
    model = QuadraticModel(
        gradient=sources["gradient"],
        curvature_product=product,
        damping=to(np.asarray(case.damping)),
        gram=gram_matrix if gram else None,
    )
    problem = FactorProblem(backend, model, case.blocks, sources)
    start = {b: {n: to(v) for n, v in own.items()} for b, own in case.start().items()}
    if framework == "jax":
        import jax

        result = jax.jit(lambda factors: solver.solve(problem, factors))(start)
    else:
        result = solver.solve(problem, start)
    factors = {b: {n: back(v) for n, v in own.items()} for b, own in result.factors.items()}
    counts = [int(back(getattr(result, n))) for n in ("status", "steps", "products", "rises")]
    return vector(case, factors), float(back(result.objective)), counts


CASES = [
    (structure, solver)
    for structure in STRUCTURES
    for solver in SOLVERS
    if (STRUCTURES[structure].few_factors or not isinstance(SOLVERS[solver], DirectSolve))
    # Adam shares its loop with momentum; its own formula does not see the structure.
    and (structure == "diagonal_floor" or solver != "adam")
]


@pytest.mark.parametrize("framework", backends.FRAMEWORKS)
@pytest.mark.parametrize("structure_key, solver_key", CASES)
def test_factors_agree(rng, structure_key, solver_key, framework):
    case = Case(rng, STRUCTURES[structure_key], damping=0.2)
    solver = SOLVERS[solver_key]
    gram = isinstance(solver, DirectSolve)
    own, own_objective, own_counts = _solve(case, solver, "numpy", gram)
    other, objective, counts = _solve(case, solver, framework, gram)
    assert counts == own_counts
    np.testing.assert_allclose(other, own, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(objective, own_objective, rtol=1e-10)
