"""No solver returns non-finite factors or a higher objective, whatever the quadratic."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from llqr.solvers import Adam, ConjugateGradient, DirectSolve, GradientDescent, Status
from llqr.structures import (
    EKFAC,
    Dense,
    Diagonal,
    Kronecker,
    LowRank,
    Scalar,
    SeparableEKFAC,
    Span,
)
from tests.solvers.quadratics import SIZE, Case, vector

STRUCTURES = {
    "scalar": Scalar(),
    "scalar_floor": Scalar(floor=0.1),
    "diagonal": Diagonal(),
    "diagonal_floor": Diagonal(floor=1e-8),
    "dense": Dense(),
    "kronecker": Kronecker(),
    "ekfac": EKFAC(),
    "separable_ekfac": SeparableEKFAC(),
    "low_rank": LowRank(),
    "span": Span(),
    "span_floor": Span(floor=0.0),
}
SOLVERS = {
    "momentum": GradientDescent(steps=12),
    "momentum_wild": GradientDescent(steps=12, learning_rate=1.0, clip_norm=None),
    "adam": Adam(steps=12, learning_rate=0.3),
    "conjugate_gradient": ConjugateGradient(steps=12),
    "direct": DirectSolve(),
    "direct_ridge": DirectSolve(relative_ridge=1.0),
}


@st.composite
def _matrices(draw):
    """Symmetric matrices: definite, indefinite, singular or zero, over many orders of magnitude."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["definite", "indefinite", "singular", "zero", "negative"]))
    span = draw(st.sampled_from([0.0, 2.0, 8.0]))
    values = 10.0 ** rng.uniform(-span, span, SIZE)
    if kind == "indefinite":
        values *= rng.choice([-1.0, 1.0], SIZE)
    if kind == "singular":
        values[rng.random(SIZE) < 0.6] = 0.0
    if kind == "zero":
        values *= 0.0
    if kind == "negative":
        values *= -1.0
    basis, _ = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))
    matrix = (basis * values) @ basis.T
    return 0.5 * (matrix + matrix.T)


# Overflow on the way to a diverging objective is what these solvers are watched for.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("solver_key", SOLVERS)
@settings(max_examples=60, deadline=None)
@given(
    structure_key=st.sampled_from(sorted(STRUCTURES)),
    matrix=_matrices(),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
    bad=st.sampled_from([None, None, np.nan, np.inf]),
    after=st.integers(0, 6),
    gram=st.booleans(),
    damping=st.sampled_from([0.0, 1e-3, 10.0]),
)
def test_factors_stay_finite_and_the_objective_never_rises(
    solver_key, structure_key, matrix, seed, scale, bad, after, gram, damping
):
    solver, structure = SOLVERS[solver_key], STRUCTURES[structure_key]
    if isinstance(solver, DirectSolve) and not structure.few_factors:
        structure = Span()
    rng = np.random.default_rng(seed)
    case = Case(rng, structure, matrix=matrix, scale=scale, gram=gram, damping=damping)
    if bad is not None:
        case.fail(after, bad)
    start = case.start()
    result = solver.solve(case.problem, start)
    assert Status(int(result.status)) is not Status.RUNNING
    assert np.isfinite(vector(case, result.factors)).all()
    assert int(result.products) == case.products
    before, after_ = case.objective(start), case.objective(result.factors)
    if solver_key == "direct_ridge":
        # Its objective includes the ridge; without it m may rise above a better start.
        before, after_ = float(result.objective_start), float(result.objective)
    if np.isfinite(before):
        # The dense re-evaluation rounds: relative to the size of the terms it sums up.
        inputs = case.problem.inputs()
        sizes = [
            np.abs(np.concatenate([v.reshape(-1) for v in case.problem.step(inputs, f).values()]))
            for f in (start, result.factors)
        ]
        terms = max(
            np.abs(case.gradient).sum() * size.max()
            + np.abs(case.matrix).sum() * size.max() ** 2
            + damping * (size @ size)
            for size in sizes
        )
        assert after_ <= before + 1e-12 * terms
    if bad is None:
        assert float(result.objective) <= float(result.objective_start)
