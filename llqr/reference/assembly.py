"""LQR blocks and dense oracles of a network, by autodiff.

With z = (x_i, θ_i) and the Hamiltonian H_i(z) = p_{i+1}ᵀ f_i(z),

    (A_i, B_i) = ∂f_i/∂z,    (Q_i, M_i, R_i) = ∂²H_i/∂z²,    p_i = A_iᵀ p_{i+1} + ∂D_i/∂x_i'

where D_i is the mode's term on state i. H_i is left out where the mode linearises the network, and
∂²D_i/∂x_i'² is added to Q_i, and to Q_N on the output. Written once for both frameworks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llqr.reference._checks import Array, check_damping
from llqr.reference.autodiff import AbstractAutodiff, Tree, Vector
from llqr.reference.modes import AbstractMode, Loss
from llqr.reference.network import Layer, Network, Stage, vectorise
from llqr.reference.problem import LQRProblem, StageBlocks


class DenseModel(NamedTuple):
    """The quadratic model of the composed network, from autodiff that knows no layers."""

    gradient: Array  # g = ∂L/∂θ [n], layer after layer
    curvature: Array  # C [n, n], without damping


def layerwise_problem(
    autodiff: AbstractAutodiff,
    layers: Sequence[Layer],
    inputs: Tree,
    loss: Loss,
    *,
    mode: AbstractMode,
    damping: float = 0.0,
) -> LQRProblem:
    """Differentiate layer by layer, from the last to the first with the adjoint.

    Args:
        autodiff: The framework.
        layers: f_0 .. f_{N-1}.
        inputs: x_0, usually a batch.
        loss: ℓ, takes x_N and returns a scalar.
        mode: The divergence that defines C.
        damping: λ ≥ 0.

    Returns:
        The LQR problem in numpy.
    """
    # Checked here as well, so that a bad value costs no differentiation.
    check_damping(damping)
    network = vectorise(autodiff, layers, inputs, loss, mode)
    depth = len(layers)
    adjoint = None if mode.linearised else _term_gradient(autodiff, network, depth)
    stages = []
    for index in reversed(range(depth)):
        blocks = _differentiate(autodiff, network.stages[index], adjoint)
        Q = blocks.pop("Q") + _term_hessian(autodiff, network, index)
        stages.append(StageBlocks(name=layers[index].name, Q=Q, **blocks))
        if adjoint is not None:
            adjoint = blocks["A"].T @ adjoint + _term_gradient(autodiff, network, index)
    return LQRProblem(
        stages=tuple(stages[::-1]),
        terminal_gradient=autodiff.gradient(network.loss, network.outputs),
        terminal_curvature=_term_hessian(autodiff, network, depth),
        damping=damping,
    )


def dense_model(
    autodiff: AbstractAutodiff,
    layers: Sequence[Layer],
    inputs: Tree,
    loss: Loss,
    *,
    mode: AbstractMode,
) -> DenseModel:
    """Differentiate the composed network: its Hessian, or Jacobians around ∂²D_k if linearised.

    Args:
        autodiff: The framework.
        layers: f_0 .. f_{N-1}.
        inputs: x_0, usually a batch.
        loss: ℓ, takes x_N and returns a scalar.
        mode: The divergence that defines C.

    Returns:
        g and C in numpy.
    """
    network = vectorise(autodiff, layers, inputs, loss, mode)
    theta = autodiff.concatenate([stage.parameters for stage in network.stages])
    gradient = autodiff.gradient(lambda vector: network.loss(network.states(vector)[-1]), theta)
    if not mode.linearised:
        return DenseModel(gradient, autodiff.hessian(network.divergence, theta))
    curvature = np.zeros((theta.shape[0], theta.shape[0]))
    for index in network.terms:
        J = autodiff.jacobian(lambda vector, index=index: network.states(vector)[index], theta)
        curvature += J.T @ _term_hessian(autodiff, network, index) @ J
    return DenseModel(gradient, curvature)


def steps_as_parameters(
    autodiff: AbstractAutodiff, layers: Sequence[Layer], steps: Sequence[Array]
) -> list[Tree]:
    """Give steps the shape of the parameters.

    Args:
        autodiff: The framework.
        layers: The layers the problem was built from.
        steps: One array δθ_i [nθ_i] per layer.

    Returns:
        One tree per layer, in float64; leaves that are not floating point keep their value.

    Raises:
        ValueError: If the number of steps or the shape of one does not fit the layers.
    """
    if len(steps) != len(layers):
        raise ValueError(
            f"steps must hold one array per layer ({len(layers)}), got {len(steps)}; "
            "cut a flat vector with LQRProblem.split"
        )
    trees = []
    for layer, step in zip(layers, steps, strict=True):
        vector, restore = autodiff.flatten(layer.parameters)
        if np.shape(step) != tuple(vector.shape):
            raise ValueError(
                f"the step of layer {layer.name!r} must have shape {tuple(vector.shape)}, "
                f"got {np.shape(step)}; check the order of the steps"
            )
        trees.append(restore(autodiff.from_numpy(step, vector)))
    return trees


def _differentiate(
    autodiff: AbstractAutodiff, stage: Stage, adjoint: Array | None
) -> dict[str, Array]:
    """Return the blocks of one stage; without the adjoint p_{i+1} Q, M and R are 0."""
    width = stage.state.shape[0]
    point = autodiff.concatenate([stage.state, stage.parameters])

    def function(joint: Vector) -> Vector:
        return stage.function(joint[:width], joint[width:])

    jacobian = autodiff.jacobian(function, point)
    hessian = np.zeros((point.shape[0], point.shape[0]))
    if adjoint is not None:
        costate = autodiff.from_numpy(adjoint, point)
        hessian = autodiff.hessian(lambda joint: (costate * function(joint)).sum(), point)
    return {
        "A": jacobian[:, :width],
        "B": jacobian[:, width:],
        "Q": hessian[:width, :width],
        "M": hessian[width:, :width],
        "R": hessian[width:, width:],
    }


def _term_gradient(autodiff: AbstractAutodiff, network: Network, index: int) -> Array:
    """Return ∂D_k/∂x_k' at x_k [nx_k], 0 where the mode has no term."""
    state = network.state(index)
    if index not in network.terms:
        return np.zeros(state.shape[0])
    return autodiff.gradient(network.terms[index], state)


def _term_hessian(autodiff: AbstractAutodiff, network: Network, index: int) -> Array:
    """Return M_k = ∂²D_k/∂x_k'² at x_k [nx_k, nx_k], 0 where the mode has no term."""
    state = network.state(index)
    if index not in network.terms:
        return np.zeros((state.shape[0], state.shape[0]))
    return autodiff.hessian(network.terms[index], state)
