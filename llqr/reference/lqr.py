"""Layerwise linear-quadratic regulator: roll-out and Riccati recursion in numpy float64.

With δx_0 = 0 and δx_{i+1} = A_i δx_i + B_i δθ_i the cost

    m = ⟨v_N, δx_N⟩ + ½ δx_Nᵀ Q_N δx_N
        + Σ_i ½ (δx_iᵀ Q_i δx_i + 2 δθ_iᵀ M_i δx_i + δθ_iᵀ (R_i + λI) δθ_i)

is the quadratic model ⟨g, δ⟩ + ½ ⟨δ, (C + λI) δ⟩ of the network. Its minimiser follows from one
backward Riccati sweep and one forward roll-out, without ever forming C.
Source: "Layerwise LQR for Geometry-Aware Optimization of Deep Networks", arXiv 2605.04230.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llqr.reference._checks import Array, float64_array
from llqr.reference.problem import LQRProblem, StageBlocks

__all__ = [
    "IndefiniteStageError",
    "LQRProblem",
    "RiccatiSolution",
    "StageBlocks",
    "riccati",
    "riccati_step",
    "rollout_cost",
    "rollout_states",
]

# Ratio of the bracket at which the search for a curing damping stops.
_BRACKET_RATIO = 1.002


class IndefiniteStageError(ValueError):
    """S_i is not positive definite, so the quadratic model has no minimiser.

    Attributes:
        layer_index: i, counted from 0.
        layer_name: Name of that layer.
        smallest_eigenvalue: Smallest eigenvalue of S_i, the damping λ in use included.
        damping: A value of λ, rounded up to three digits, with which every stage succeeds.
    """

    def __init__(
        self, *, layer_index: int, layer_name: str, smallest_eigenvalue: float, damping: float
    ) -> None:
        """Keep the figures as attributes and word the message."""
        self.layer_index = layer_index
        self.layer_name = layer_name
        self.smallest_eigenvalue = smallest_eigenvalue
        self.damping = damping
        super().__init__(
            f"layer {layer_index} ({layer_name!r}): S_{layer_index} must be positive definite, "
            f"but its smallest eigenvalue is {smallest_eigenvalue:.6g}; "
            f"all stages succeed with damping={damping:.3g}"
        )


class RiccatiSolution(NamedTuple):
    """Result of the backward sweep: δθ_i = −(gains[i] δx_i + feedforwards[i])."""

    gains: list[Array]  # S_i⁻¹ G_i [nθ_i, nx_i], i = 0..N-1
    feedforwards: list[Array]  # S_i⁻¹ B_iᵀ v_{i+1} [nθ_i]
    value_hessians: list[Array]  # K_i [nx_i, nx_i], i = 0..N
    value_gradients: list[Array]  # v_i [nx_i], i = 0..N


class _IndefiniteStage(NamedTuple):
    """Where a sweep stopped."""

    layer_index: int
    smallest_eigenvalue: float
    largest_magnitude: float


def rollout_states(problem: LQRProblem, steps: Sequence[Array]) -> list[Array]:
    """Propagate parameter steps: δx_0 = 0, δx_{i+1} = A_i δx_i + B_i δθ_i.

    Args:
        problem: The N stages.
        steps: N arrays δθ_i [nθ_i].

    Returns:
        The N + 1 arrays δx_i [nx_i].

    Raises:
        ValueError: If the number of steps or the shape of one does not fit the stages.
    """
    if len(steps) != len(problem.stages):
        raise ValueError(
            f"steps must hold one array per stage ({len(problem.stages)}), got {len(steps)}; "
            "cut a flat vector with problem.split"
        )
    states: list[Array] = [np.zeros(problem.stages[0].A.shape[1])]
    for index, (stage, step) in enumerate(zip(problem.stages, steps, strict=True)):
        step = float64_array(f"steps[{index}]", step, (stage.B.shape[1],))
        states.append(stage.A @ states[-1] + stage.B @ step)
    return states


def rollout_cost(problem: LQRProblem, steps: Sequence[Array]) -> float:
    """Evaluate the cost m of the module's docstring along a roll-out.

    Args:
        problem: The N stages.
        steps: N arrays δθ_i [nθ_i].

    Returns:
        m, equal to the quadratic model at the same δ.
    """
    *states, last = rollout_states(problem, steps)
    cost = problem.terminal_gradient @ last + 0.5 * last @ problem.terminal_curvature @ last
    for stage, state, step in zip(problem.stages, states, steps, strict=True):
        cost += 0.5 * (state @ stage.Q @ state + step @ stage.R @ step)
        cost += step @ stage.M @ state + 0.5 * problem.damping * (step @ step)
    return float(cost)


def riccati(problem: LQRProblem, *, require_minimum: bool = True) -> RiccatiSolution:
    """Run the backward Riccati recursion.

        S_i = R_i + λI + B_iᵀ K_{i+1} B_i,   G_i = M_i + B_iᵀ K_{i+1} A_i,   K_N = Q_N
        K_i = Q_i + A_iᵀ K_{i+1} A_i − G_iᵀ S_i⁻¹ G_i
        v_i = A_iᵀ v_{i+1} − G_iᵀ S_i⁻¹ B_iᵀ v_{i+1}

    Args:
        problem: The N stages.
        require_minimum: False also accepts indefinite S_i as long as they are invertible; the
            result is then the stationary point of m, which may be a saddle.

    Returns:
        Gains, feed-forward terms, K_i and v_i.

    Raises:
        IndefiniteStageError: If an S_i is not positive definite (singular, where no minimum is
            required). All S_i are positive definite exactly when C + λI is.
    """
    result = _sweep(problem, require_minimum)
    if isinstance(result, RiccatiSolution):
        return result
    raise IndefiniteStageError(
        layer_index=result.layer_index,
        layer_name=problem.stages[result.layer_index].name,
        smallest_eigenvalue=result.smallest_eigenvalue,
        damping=_curing_damping(problem, result.largest_magnitude),
    )


def riccati_step(problem: LQRProblem, *, require_minimum: bool = True) -> list[Array]:
    """Minimise the cost: δθ_i = −S_i⁻¹ (G_i δx_i + B_iᵀ v_{i+1}) along the roll-out.

    Args:
        problem: The N stages.
        require_minimum: As for `riccati`, with the same error.

    Returns:
        N arrays δθ_i [nθ_i]; together −(C + λI)⁻¹ g.
    """
    solution = riccati(problem, require_minimum=require_minimum)
    state = np.zeros(problem.stages[0].A.shape[1])
    steps = []
    for stage, gain, feedforward in zip(
        problem.stages, solution.gains, solution.feedforwards, strict=True
    ):
        steps.append(-(gain @ state + feedforward))
        state = stage.A @ state + stage.B @ steps[-1]
    return steps


def _sweep(problem: LQRProblem, require_minimum: bool = True) -> RiccatiSolution | _IndefiniteStage:
    """Run the recursion from the last layer to the first, or say at which layer it stopped."""
    K, v = problem.terminal_curvature, problem.terminal_gradient
    gains, feedforwards, hessians, gradients = [], [], [K], [v]
    for index, stage in reversed(list(enumerate(problem.stages))):
        A, B = stage.A, stage.B
        S = stage.R + problem.damping * np.eye(len(stage.R)) + B.T @ K @ B
        eigenvalues = np.linalg.eigvalsh(S)
        smallest = float(eigenvalues.min(initial=np.inf))
        largest = float(np.abs(eigenvalues).max(initial=0.0))
        pivot = smallest if require_minimum else np.abs(eigenvalues).min(initial=np.inf)
        # Below this the sign of an eigenvalue is round-off.
        if pivot <= len(S) * np.finfo(np.float64).eps * largest:
            return _IndefiniteStage(index, smallest, largest)
        G = stage.M + B.T @ K @ A
        gain = np.linalg.solve(S, G)
        feedforward = np.linalg.solve(S, B.T @ v)
        K = stage.Q + A.T @ K @ A - G.T @ gain
        # Round-off would otherwise grow an antisymmetric part from layer to layer.
        K = 0.5 * (K + K.T)
        v = A.T @ v - G.T @ feedforward
        gains.append(gain)
        feedforwards.append(feedforward)
        hessians.append(K)
        gradients.append(v)
    return RiccatiSolution(gains[::-1], feedforwards[::-1], hessians[::-1], gradients[::-1])


def _curing_damping(problem: LQRProblem, scale: float) -> float:
    """Search the smallest λ with which every stage succeeds, by bracketing and bisection.

    Success is monotone in λ because it means that C + λI is positive definite. A merely singular
    stage would be cured by any λ above round-off; advice below √ε of its scale is of no use, so
    the search starts there.

    Args:
        problem: A problem whose sweep stopped.
        scale: Largest magnitude of an eigenvalue of the S_i it stopped at.

    Returns:
        λ, at most 1.3 % above the smallest sufficient one unless that lies below √ε of the scale.
    """

    def succeeds(damping: float) -> bool:
        return isinstance(_sweep(dataclasses.replace(problem, damping=damping)), RiccatiSolution)

    floor = math.sqrt(np.finfo(np.float64).eps) * (scale or 1.0)
    failing, sufficient = problem.damping, max(2.0 * problem.damping, floor)
    while not succeeds(sufficient):
        failing, sufficient = sufficient, 4.0 * sufficient
    while failing > 0.0 and sufficient > _BRACKET_RATIO * failing:
        middle = math.sqrt(failing * sufficient)
        if succeeds(middle):
            sufficient = middle
        else:
            failing = middle
    # Rounded up, so that the digits printed in the message are themselves sufficient.
    unit = 10.0 ** (math.floor(math.log10(sufficient)) - 2)
    return float(f"{math.ceil(sufficient / unit) * unit:.3g}")
