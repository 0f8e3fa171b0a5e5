"""The exact reference in JAX: LQR problem and dense oracle of a network given as layers.

Shapes, formulas and modes are those of `llqr.reference`. Parameters and states are any pytrees.
Everything is computed in float64 whatever the dtype of the network, so 64-bit mode must be on;
otherwise every function raises RuntimeError.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from llqr.reference import assembly
from llqr.reference.assembly import DenseModel
from llqr.reference.autodiff import AbstractAutodiff, Tree
from llqr.reference.lqr import LQRProblem
from llqr.reference.modes import AbstractMode, Loss
from llqr.reference.network import Layer


def layerwise_problem(
    layers: Sequence[Layer],
    inputs: Tree,
    loss: Loss,
    *,
    mode: AbstractMode,
    damping: float = 0.0,
) -> LQRProblem:
    """Build A, B, Q, M, R of every layer by autodiff.

    Args:
        layers: f_0 .. f_{N-1}; each function takes (x_i, θ_i).
        inputs: x_0, usually a batch; integer inputs are constants.
        loss: ℓ, takes x_N and returns a 0-d array.
        mode: The divergence that defines C.
        damping: λ ≥ 0.

    Returns:
        The LQR problem in numpy float64.
    """
    return assembly.layerwise_problem(
        JaxAutodiff(), layers, inputs, loss, mode=mode, damping=damping
    )


def dense_model(
    layers: Sequence[Layer], inputs: Tree, loss: Loss, *, mode: AbstractMode
) -> DenseModel:
    """Build the gradient g [n] and the curvature C [n, n] of the composed network by autodiff.

    Args:
        layers: f_0 .. f_{N-1}; each function takes (x_i, θ_i).
        inputs: x_0, usually a batch; integer inputs are constants.
        loss: ℓ, takes x_N and returns a 0-d array.
        mode: The divergence that defines C.

    Returns:
        g and C in numpy float64, without damping.
    """
    return assembly.dense_model(JaxAutodiff(), layers, inputs, loss, mode=mode)


def steps_as_parameters(layers: Sequence[Layer], steps: Sequence[NDArray]) -> list[Tree]:
    """Give the steps δθ_i [nθ_i] the shape of the parameters.

    Args:
        layers: The layers the problem was built from.
        steps: One array per layer, as from `riccati_step`.

    Returns:
        One tree of float64 arrays per layer.
    """
    return assembly.steps_as_parameters(JaxAutodiff(), layers, steps)


def categorical_kl(logits: Array, other: Array) -> Array:
    """Mean KL divergence between categorical distributions, for `Fisher` and `Renyi`.

    Args:
        logits: Logits or log-probabilities [..., classes]; the leading axes are averaged over.
        other: The same of the second distribution.

    Returns:
        KL(softmax(logits) ‖ softmax(other)), 0-d.
    """
    first, second = jax.nn.log_softmax(logits), jax.nn.log_softmax(other)
    return (jnp.exp(first) * (first - second)).sum(-1).mean()


def gaussian_kl(outputs: Array, other: Array) -> Array:
    """Mean KL divergence between Gaussians of unit variance, or a metric on any state.

    Args:
        outputs: Means [batch, ...]; the first axis is averaged over, the others are summed.
        other: The same of the second distribution.

    Returns:
        ½ ‖outputs − other‖² / batch, 0-d.
    """
    return 0.5 * jnp.square(outputs - other).sum() / outputs.shape[0]


class JaxAutodiff(AbstractAutodiff):
    """Jacobians by reverse mode, Hessians by forward over reverse.

    Each is compiled as a whole: on small networks primitive by primitive took three times as long.

    Raises:
        RuntimeError: If JAX is not in 64-bit mode.
    """

    def __init__(self) -> None:
        if not jax.config.jax_enable_x64:
            raise RuntimeError(
                "the exact reference must run in float64, got JAX in 32-bit mode; "
                'call jax.config.update("jax_enable_x64", True) first'
            )

    def flatten(self, tree: Tree) -> tuple[Array, Callable[[Array], Tree]]:
        """Return the floating-point leaves as one vector, and the inverse."""
        leaves, structure = jax.tree.flatten(tree)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        sizes = [leaf.size if _moves(leaf) else 0 for leaf in leaves]

        def restore(vector: Array) -> Tree:
            # The last cut is the end of the vector: one empty part more than there are leaves.
            parts = jnp.split(vector, np.cumsum(sizes, dtype=int))[:-1]
            restored = [
                part.reshape(leaf.shape) if _moves(leaf) else leaf
                for part, leaf in zip(parts, leaves, strict=True)
            ]
            return jax.tree.unflatten(structure, restored)

        moving = [leaf.ravel().astype(jnp.float64) for leaf in leaves if _moves(leaf)]
        return self.concatenate(moving), restore

    def concatenate(self, vectors: Sequence[Array]) -> Array:
        """Join vectors, none of them included."""
        return jnp.concatenate([*vectors, jnp.zeros(0)])

    def gradient(self, function: Callable[[Array], Array], point: Array) -> NDArray[np.float64]:
        """Differentiate a scalar function: [n] in numpy."""
        return np.asarray(jax.jit(jax.grad(function))(point))

    def jacobian(self, function: Callable[[Array], Array], point: Array) -> NDArray[np.float64]:
        """Differentiate a vector function: [m, n] in numpy."""
        return np.asarray(jax.jit(jax.jacrev(function))(point))

    def hessian(self, function: Callable[[Array], Array], point: Array) -> NDArray[np.float64]:
        """Differentiate a scalar function twice: [n, n] in numpy."""
        return np.asarray(jax.jit(jax.hessian(function))(point))

    def from_numpy(self, array: NDArray[np.float64], like: Array) -> Array:
        """Convert a numpy array to JAX; placement is left to JAX."""
        return jnp.asarray(array, dtype=jnp.float64)


def _moves(leaf: Array) -> bool:
    """Whether a leaf is a floating-point array; others are constants."""
    return jnp.issubdtype(leaf.dtype, jnp.floating)
