"""Random LQR problems in numpy against an explicit dense model of the same problem."""

import dataclasses

import numpy as np
import pytest

from llqr.reference import (
    IndefiniteStageError,
    LQRProblem,
    StageBlocks,
    dense_step,
    gram_solve,
    quadratic_value,
    riccati,
    riccati_step,
    rollout_cost,
    rollout_states,
)

# (widths of the states, widths of the parameters); some layers have no parameters.
SHAPES = [
    ((3, 2), (4,)),
    ((2, 3, 4), (3, 2)),
    ((4, 5, 3, 6, 2), (3, 0, 5, 4)),
    ((0, 3, 3), (0, 2)),
    ((2, 2), (0,)),
]


def symmetric(rng, width):
    matrix = rng.normal(size=(width, width))
    return 0.5 * (matrix + matrix.T)


def random_problem(rng, states, parameters, damping=0.0):
    stages = tuple(
        StageBlocks(
            name=f"layer_{index}",
            A=rng.normal(size=(after, before)),
            B=rng.normal(size=(after, width)),
            Q=symmetric(rng, before),
            M=rng.normal(size=(width, before)),
            R=symmetric(rng, width),
        )
        for index, (before, after, width) in enumerate(
            zip(states[:-1], states[1:], parameters, strict=True)
        )
    )
    return LQRProblem(
        stages=stages,
        terminal_gradient=rng.normal(size=states[-1]),
        terminal_curvature=symmetric(rng, states[-1]),
        damping=damping,
    )


def dense(problem):
    """g and C from the products ∂x_k/∂θ_j = A_{k−1} … A_{j+1} B_j, with no roll-out."""
    widths = [stage.B.shape[1] for stage in problem.stages]
    cuts = np.cumsum([0, *widths])
    jacobians = [np.zeros((problem.stages[0].A.shape[1], cuts[-1]))]
    curvature = np.zeros((cuts[-1], cuts[-1]))
    for index, stage in enumerate(problem.stages):
        J, select = jacobians[-1], np.eye(cuts[-1])[cuts[index] : cuts[index + 1]]
        curvature += J.T @ stage.Q @ J + select.T @ stage.R @ select
        curvature += select.T @ stage.M @ J + J.T @ stage.M.T @ select
        jacobians.append(stage.A @ J + stage.B @ select)
    J = jacobians[-1]
    return J.T @ problem.terminal_gradient, curvature + J.T @ problem.terminal_curvature @ J


@pytest.fixture(params=SHAPES, ids=str)
def problem(request, rng):
    bare = random_problem(rng, *request.param)
    _, curvature = dense(bare)
    return dataclasses.replace(
        bare, damping=1.0 + 1.5 * max(0.0, -np.linalg.eigvalsh(curvature).min(initial=0.0))
    )


def test_rollout_cost_is_the_quadratic_model(problem, rng):
    gradient, curvature = dense(problem)
    for _ in range(5):
        delta = rng.normal(size=gradient.shape)
        expected = quadratic_value(gradient, curvature, problem.damping, delta)
        actual = rollout_cost(problem, problem.split(delta))
        assert actual == pytest.approx(expected, rel=1e-12)


def test_riccati_step_is_the_dense_step(problem):
    gradient, curvature = dense(problem)
    expected = dense_step(gradient, curvature, problem.damping)
    actual = np.concatenate(riccati_step(problem))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-13)


def test_value_function_is_the_minimum_over_the_later_steps(problem):
    """min over δθ_i.. of m, started from δx_i, is ½ δx_iᵀ K_i δx_i + v_iᵀ δx_i + a constant."""
    solution = riccati(problem)
    for index, stage in enumerate(problem.stages):
        width = stage.A.shape[1]
        # A first layer whose step is δx_i itself turns the minimum into a Schur complement.
        start = StageBlocks(
            name="start",
            A=np.zeros((width, 0)),
            B=np.eye(width),
            Q=np.zeros((0, 0)),
            M=np.zeros((width, 0)),
            R=np.zeros((width, width)),
        )
        tail = dataclasses.replace(problem, stages=(start, *problem.stages[index:]))
        g, C = dense(tail)
        later = C[width:, width:] + problem.damping * np.eye(len(g) - width)
        coupling = np.linalg.solve(later, C[width:, :width]).T
        K = C[:width, :width] - coupling @ C[width:, :width]
        v = g[:width] - coupling @ g[width:]
        np.testing.assert_allclose(solution.value_hessians[index], K, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(solution.value_gradients[index], v, rtol=1e-9, atol=1e-11)


def indefinite_problem(seed):
    rng = np.random.default_rng(seed)
    return random_problem(rng, (3, 4, 3, 2), (3, 2, 4))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_reported_damping_cures_and_clearly_less_does_not(seed, share):
    problem = indefinite_problem(seed)
    threshold = -np.linalg.eigvalsh(dense(problem)[1])[0]
    problem = dataclasses.replace(problem, damping=share * threshold)
    with pytest.raises(IndefiniteStageError) as raised:
        riccati(problem)
    error = raised.value
    assert threshold < error.damping < 1.02 * threshold
    riccati(dataclasses.replace(problem, damping=error.damping))
    with pytest.raises(IndefiniteStageError):
        riccati(dataclasses.replace(problem, damping=0.95 * error.damping))


def test_indefinite_stage_is_named_with_its_eigenvalue():
    """The last layer is hit first: S = R + λI + BᵀKB there."""
    problem = indefinite_problem(0)
    last = problem.stages[-1]
    S = last.R + last.B.T @ problem.terminal_curvature @ last.B
    smallest = np.linalg.eigvalsh(S)[0]
    assert smallest < 0
    with pytest.raises(IndefiniteStageError) as raised:
        riccati_step(problem)
    error = raised.value
    assert (error.layer_index, error.layer_name) == (2, "layer_2")
    assert error.smallest_eigenvalue == pytest.approx(smallest, rel=1e-12)
    for part in ("layer 2", "'layer_2'", f"{smallest:.6g}", f"damping={error.damping:.3g}"):
        assert part in str(error)
    # The digits in the message are the damping itself.
    assert float(str(error).rsplit("=", 1)[1]) == error.damping


def test_earlier_layer_is_named_when_later_ones_are_definite():
    """A saddle across layers, as in a network whose last layer alone is convex."""
    blocks = {"A": np.eye(2), "B": np.eye(2), "Q": np.zeros((2, 2)), "M": np.zeros((2, 2))}
    problem = LQRProblem(
        stages=(
            StageBlocks(name="concave", R=-3.0 * np.eye(2), **blocks),
            StageBlocks(name="convex", R=np.eye(2), **blocks),
        ),
        terminal_gradient=np.ones(2),
        terminal_curvature=np.eye(2),
    )
    with pytest.raises(IndefiniteStageError, match=r"layer 0 \('concave'\)") as raised:
        riccati(problem)
    assert raised.value.smallest_eigenvalue == pytest.approx(-2.5)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 1e6])
def test_singular_stage_is_reported_and_cured(scale):
    """A rank-deficient Fisher without damping has no unique minimiser."""
    direction = np.array([[1.0, 1.0]])
    problem = LQRProblem(
        stages=(
            StageBlocks(
                name="flat",
                A=np.zeros((1, 1)),
                B=direction,
                Q=np.zeros((1, 1)),
                M=np.zeros((2, 1)),
                R=np.zeros((2, 2)),
            ),
        ),
        terminal_gradient=np.ones(1),
        terminal_curvature=scale * np.eye(1),
    )
    with pytest.raises(IndefiniteStageError):
        riccati(problem, require_minimum=False)
    with pytest.raises(IndefiniteStageError) as raised:
        riccati(problem)
    assert 0.0 < raised.value.damping < 1e-7 * max(2.0 * scale, 1.0)
    riccati(dataclasses.replace(problem, damping=raised.value.damping))


def test_stationary_point_of_an_indefinite_problem():
    problem = indefinite_problem(1)
    gradient, curvature = dense(problem)
    with pytest.raises(IndefiniteStageError):
        riccati_step(problem)
    actual = np.concatenate(riccati_step(problem, require_minimum=False))
    np.testing.assert_allclose(actual, dense_step(gradient, curvature, 0.0), rtol=1e-9)


def test_gram_solve_is_the_minimum_over_the_span(rng):
    factor, directions = rng.normal(size=(6, 6)), rng.normal(size=(6, 3))
    curvature, gradient = factor @ factor.T, rng.normal(size=6)
    best = gram_solve(gradient, curvature, 0.1, directions)
    slope = directions.T @ (gradient - (curvature + 0.1 * np.eye(6)) @ directions @ best)
    np.testing.assert_allclose(slope, 0.0, atol=1e-11)
    full = gram_solve(gradient, curvature, 0.1, np.eye(6))
    np.testing.assert_allclose(-full, dense_step(gradient, curvature, 0.1), rtol=1e-10)


def test_bad_problems_are_refused(rng):
    problem = random_problem(rng, (2, 3, 4), (3, 2))
    stage = problem.stages[0]
    replace = dataclasses.replace
    cases = [
        (lambda: replace(problem, stages=()), "at least one stage, got none"),
        (lambda: replace(problem, stages=problem.stages[::-1]), "must form a chain"),
        (lambda: replace(problem, damping=-0.5), r"damping must be finite and >= 0, got -0\.5"),
        (lambda: replace(problem, damping=float("nan")), "got nan"),
        (lambda: replace(problem, terminal_gradient=np.ones(3)), r"shape \(4,\), got \(3,\)"),
        (lambda: replace(stage, M=np.ones((2, 2))), r"M of stage 'layer_0' must have shape"),
        (lambda: replace(stage, B=stage.B * np.inf), "B of stage 'layer_0' must be finite"),
        (lambda: replace(stage, Q=np.array([[1.0, 2.0], [0.0, 1.0]])), "must be symmetric"),
        (lambda: replace(stage, A=np.ones(3)), "A of stage 'layer_0' must be a matrix"),
        (lambda: rollout_cost(problem, [np.zeros(3)]), r"one array per stage \(2\), got 1"),
        (lambda: rollout_states(problem, [np.zeros(3)] * 2), r"steps\[1\] must have shape \(2,\)"),
        (lambda: problem.split(np.zeros(4)), r"delta must have shape \(5,\)"),
        (lambda: dense_step(np.ones(2), np.zeros((2, 2)), 0.0), "raise the damping"),
        (lambda: dense_step(np.ones(2), np.eye(3), 0.0), r"curvature must have shape \(2, 2\)"),
        (lambda: dense_step(np.ones(2), np.eye(2), -1.0), "damping must be finite"),
        (lambda: quadratic_value(np.ones(2), np.eye(2), 0.0, np.ones(3)), "delta must have"),
        (lambda: gram_solve(np.ones(2), np.eye(2), 0.0, np.ones(2)), r"shape \(2, 1\), got \(2,\)"),
        (lambda: gram_solve(np.ones(2), np.eye(2), 0.0, np.ones((2, 2))), "Gram matrix"),
    ]
    for build, message in cases:
        with pytest.raises(ValueError, match=message):
            build()
