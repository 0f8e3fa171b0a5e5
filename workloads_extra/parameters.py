"""Parameters of a model, declared once for both frameworks.

Names are paths as JAX has them, ``dense_0/kernel``. Initial values are drawn in NumPy, so one seed gives one
model in both frameworks. PyTorch calls kernels, embeddings and scales ``weight`` and stores kernels with
the output axis first.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from workloads_extra.rng import seed_of
from workloads_extra.spec import ParameterType, ShapeTuple

Arrays = dict[str, np.ndarray]

_TORCH_WEIGHTS = ("kernel", "embedding", "scale")


class ParameterSpec(NamedTuple):
    """One parameter.

    Attributes:
        shape: lengths of the axes, kernels as [in, out] or [height, width, in, out].
        type: role in the model.
        stddev: of the normal distribution that initial values come from; 0 for a constant.
        mean: of that distribution, or the constant; a number or one per entry.
    """

    shape: tuple[int, ...]
    type: ParameterType
    stddev: float = 0.0
    mean: float | tuple[float, ...] = 0.0


Specs = dict[str, ParameterSpec]


def kernel(
    inputs: int, outputs: int, type: ParameterType = ParameterType.WEIGHT, gain: float = 1.0
) -> ParameterSpec:
    """Return the kernel of a linear layer, entries of variance gain² / inputs."""
    return ParameterSpec((inputs, outputs), type, stddev=gain / math.sqrt(inputs))


def conv_kernel(side: int, inputs: int, outputs: int) -> ParameterSpec:
    """Return the kernel of a convolution before a ReLU, entries of variance 2 / (side² inputs)."""
    stddev = math.sqrt(2 / (side**2 * inputs))
    return ParameterSpec((side, side, inputs, outputs), ParameterType.CONV_WEIGHT, stddev)


def bias(outputs: int, type: ParameterType = ParameterType.BIAS) -> ParameterSpec:
    """Return a bias that starts at zero."""
    return ParameterSpec((outputs,), type)


def norm_scale(width: int, type: ParameterType = ParameterType.LAYER_NORM_SCALE) -> ParameterSpec:
    """Return the scale of a normalisation, which starts at one."""
    return ParameterSpec((width,), type, mean=1.0)


def initial_arrays(specs: Specs, rng: Any) -> Arrays:
    """Draw initial values.

    Args:
        specs: the parameters, in the order in which they are drawn.
        rng: random state of either framework.

    Returns:
        One float32 array per parameter.
    """
    generator = np.random.default_rng(seed_of(rng))
    return {path: _draw(spec, generator) for path, spec in specs.items()}


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Turn ``{"a/b": x}`` into ``{"a": {"b": x}}``."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn ``{"a": {"b": x}}`` into ``{"a/b": x}``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(flatten(value, f"{path}/") if isinstance(value, dict) else {path: value})
    return flat


def torch_name(path: str) -> str:
    """Return the name PyTorch gives to a parameter."""
    *parents, leaf = path.split("/")
    return ".".join([*parents, "weight" if leaf in _TORCH_WEIGHTS else leaf])


def to_torch_layout(arrays: Arrays) -> Arrays:
    """Rename to PyTorch's names and transpose kernels to [out, in] or [out, in, height, width]."""
    return {torch_name(path): _to_torch(path, array) for path, array in arrays.items()}


def from_torch_layout(specs: Specs, arrays: Arrays) -> Arrays:
    """Undo `to_torch_layout`; `specs` says which names are kernels."""
    return {path: _from_torch(path, arrays[torch_name(path)]) for path in specs}


def shape_tuples(arrays: Arrays) -> dict[str, ShapeTuple]:
    """Return the shapes as leaves of a tree."""
    return {name: ShapeTuple(tuple(array.shape)) for name, array in arrays.items()}


def _draw(spec: ParameterSpec, generator: np.random.Generator) -> np.ndarray:
    """Initial value of one parameter."""
    noise = generator.standard_normal(spec.shape)
    return (np.asarray(spec.mean) + spec.stddev * noise).astype(np.float32)


def _to_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Put the last two axes of a kernel first, and output before input."""
    return np.moveaxis(array, (-1, -2), (0, 1)) if _is_kernel(path) else array


def _from_torch(path: str, array: np.ndarray) -> np.ndarray:
    """Undo `_to_torch`."""
    return np.moveaxis(array, (0, 1), (-1, -2)) if _is_kernel(path) else array


def _is_kernel(path: str) -> bool:
    """Return whether a parameter is a kernel."""
    return path.split("/")[-1] == "kernel"
