"""The exact reference in torch: LQR problem and dense oracle of a network given as layers.

Shapes, formulas and modes are those of `llqr.reference`. Parameters and states are tensors, or
dictionaries (taken in the order of their sorted keys, as in JAX), lists and tuples of them.
Everything is computed in float64 whatever the dtype of the network.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        loss: ℓ, takes x_N and returns a 0-d tensor.
        mode: The divergence that defines C.
        damping: λ ≥ 0.

    Returns:
        The LQR problem in numpy float64.
    """
    return assembly.layerwise_problem(
        TorchAutodiff(), layers, inputs, loss, mode=mode, damping=damping
    )


def dense_model(
    layers: Sequence[Layer], inputs: Tree, loss: Loss, *, mode: AbstractMode
) -> DenseModel:
    """Build the gradient g [n] and the curvature C [n, n] of the composed network by autodiff.

    Args:
        layers: f_0 .. f_{N-1}; each function takes (x_i, θ_i).
        inputs: x_0, usually a batch; integer inputs are constants.
        loss: ℓ, takes x_N and returns a 0-d tensor.
        mode: The divergence that defines C.

    Returns:
        g and C in numpy float64, without damping.
    """
    return assembly.dense_model(TorchAutodiff(), layers, inputs, loss, mode=mode)


def steps_as_parameters(layers: Sequence[Layer], steps: Sequence[NDArray]) -> list[Tree]:
    """Give the steps δθ_i [nθ_i] the shape of the parameters.

    Args:
        layers: The layers the problem was built from.
        steps: One array per layer, as from `riccati_step`.

    Returns:
        One tree of float64 tensors per layer.
    """
    return assembly.steps_as_parameters(TorchAutodiff(), layers, steps)


def categorical_kl(logits: Tensor, other: Tensor) -> Tensor:
    """Mean KL divergence between categorical distributions, for `Fisher` and `Renyi`.

    Args:
        logits: Logits or log-probabilities [..., classes]; the leading axes are averaged over.
        other: The same of the second distribution.

    Returns:
        KL(softmax(logits) ‖ softmax(other)), 0-d.
    """
    first, second = torch.log_softmax(logits, -1), torch.log_softmax(other, -1)
    return (first.exp() * (first - second)).sum(-1).mean()


def gaussian_kl(outputs: Tensor, other: Tensor) -> Tensor:
    """Mean KL divergence between Gaussians of unit variance, or a metric on any state.

    Args:
        outputs: Means [batch, ...]; the first axis is averaged over, the others are summed.
        other: The same of the second distribution.

    Returns:
        ½ ‖outputs − other‖² / batch, 0-d.
    """
    return 0.5 * (outputs - other).square().sum() / outputs.shape[0]


class TorchAutodiff(AbstractAutodiff):
    """Reverse mode only: forward mode and vmap fail in some kernels (fused attention, LSTM)."""

    def flatten(self, tree: Tree) -> tuple[Tensor, Callable[[Tensor], Tree]]:
        """Return the floating-point leaves as one vector, and the inverse."""
        leaves = list(_leaves(tree))
        sizes = [leaf.numel() if leaf.is_floating_point() else 0 for leaf in leaves]

        def restore(vector: Tensor) -> Tree:
            parts = [
                part.reshape(leaf.shape) if leaf.is_floating_point() else leaf
                for part, leaf in zip(vector.split(sizes), leaves, strict=True)
            ]
            return _rebuild(tree, iter(parts))

        moving = [leaf.reshape(-1).double() for leaf in leaves if leaf.is_floating_point()]
        return self.concatenate(moving), restore

    def concatenate(self, vectors: Sequence[Tensor]) -> Tensor:
        """Join vectors, none of them included."""
        # An empty one is left out because it need not lie on the device of the others.
        return torch.cat([each for each in vectors if each.numel()] or [torch.zeros(0).double()])

    def gradient(self, function: Callable[[Tensor], Tensor], point: Tensor) -> NDArray[np.float64]:
        """Differentiate a scalar function: [n] in numpy."""
        return _to_numpy(torch.autograd.functional.vjp(function, point)[1])

    def jacobian(self, function: Callable[[Tensor], Tensor], point: Tensor) -> NDArray[np.float64]:
        """Differentiate a vector function: [m, n] in numpy."""
        return _to_numpy(torch.autograd.functional.jacobian(function, point))

    def hessian(self, function: Callable[[Tensor], Tensor], point: Tensor) -> NDArray[np.float64]:
        """Differentiate a scalar function twice: [n, n] in numpy."""
        # torch stacks the rows one by one and refuses to stack none.
        if point.numel() == 0:
            return np.zeros((0, 0))
        return _to_numpy(torch.autograd.functional.hessian(function, point))

    def from_numpy(self, array: NDArray[np.float64], like: Tensor) -> Tensor:
        """Convert a numpy array to a tensor on the device of `like`."""
        return torch.as_tensor(array, dtype=torch.float64, device=like.device)


def _to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    """Convert a tensor on any device to numpy."""
    return tensor.detach().cpu().numpy()


def _leaves(tree: Tree) -> Iterator[Tensor]:
    """Yield the tensors of a tree, dictionaries in the order of their sorted keys."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for key in sorted(tree):
            yield from _leaves(tree[key])
    elif isinstance(tree, list | tuple):
        for each in tree:
            yield from _leaves(each)
    elif tree is not None:
        _refuse(tree)


def _rebuild(tree: Tree, leaves: Iterator[Any]) -> Tree:
    """Replace the tensors of a tree, in the order of `_leaves`."""
    if isinstance(tree, Tensor):
        return next(leaves)
    if isinstance(tree, Mapping):
        return {key: _rebuild(tree[key], leaves) for key in sorted(tree)}
    if isinstance(tree, list | tuple):
        parts = [_rebuild(each, leaves) for each in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def _refuse(tree: Tree) -> NoReturn:
    """Raise the error of something that is no tree of tensors."""
    raise TypeError(
        "states and parameters must be tensors or dictionaries, lists and tuples of tensors, got "
        f"{type(tree).__name__}; wrap numbers with torch.tensor"
    )
