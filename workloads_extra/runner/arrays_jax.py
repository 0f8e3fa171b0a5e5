"""What the runner does differently for JAX: devices, waiting for results, arrays in checkpoints."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from workloads_extra.runner.checkpoints import Model


class JaxRuntime:
    """The parts of a run that depend on JAX."""

    is_main = True

    @property
    def device_count(self) -> int:
        """Devices that share a batch."""
        return jax.local_device_count()

    def prepare(self, params: Any, compile_model: bool) -> Any:
        """Return the parameters as the submission gets them."""
        del compile_model
        return params

    def wait(self, model: Model) -> None:
        """Return when all work on the model is done; JAX runs behind Python."""
        jax.block_until_ready(
            [leaf for leaf in jax.tree.leaves(model) if isinstance(leaf, jax.Array)]
        )

    def agree(self, seconds: float) -> float:
        """Return the time that all processes use; there is one."""
        return seconds

    def close(self) -> None:
        """Nothing is left open."""

    def encode(self, model: Model) -> tuple[list[dict[str, Any] | None], bytes]:
        """Return dtype and shape of every array or number in the tree, and all their bytes.

        Other leaves, such as functions, are not saved: a freshly initialised tree has them.
        """
        index: list[dict[str, Any] | None] = []
        parts: list[bytes] = []
        for leaf in jax.tree.leaves(model):
            array = _as_numpy(leaf)
            if array is None:
                index.append(None)
                continue
            index.append({"dtype": array.dtype.name, "shape": list(array.shape)})
            parts.append(array.tobytes())
        return index, b"".join(parts)

    def decode(self, index: list[dict[str, Any] | None], payload: bytes, template: Model) -> Model:
        """Return the template with the saved arrays in it.

        Raises:
            ValueError: if number, shapes or dtypes of the leaves differ.
        """
        leaves, structure = jax.tree.flatten(template)
        if len(leaves) != len(index):
            raise ValueError(f"it has {len(index)} leaves where {len(leaves)} are expected")
        restored, offset = [], 0
        for number, (leaf, entry) in enumerate(zip(leaves, index, strict=True)):
            expected = _as_numpy(leaf)
            found = None if entry is None else (entry["dtype"], tuple(entry["shape"]))
            wanted = None if expected is None else (expected.dtype.name, expected.shape)
            if found != wanted:
                raise ValueError(f"leaf {number} is {found} where {wanted} is expected")
            if expected is None:
                restored.append(leaf)
                continue
            array = np.frombuffer(payload, expected.dtype, expected.size, offset)
            offset += expected.nbytes
            restored.append(_like(leaf, array.reshape(expected.shape)))
        return jax.tree.unflatten(structure, restored)


def _as_numpy(leaf: Any) -> np.ndarray | None:
    """Array of a leaf, None for a leaf that is none."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
        return np.asarray(leaf)
    return None


def _like(leaf: Any, array: np.ndarray) -> Any:
    """Array in the type of a leaf; left to JAX to place, as fresh parameters are."""
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
        return jnp.asarray(array)
    return array.copy() if isinstance(leaf, np.ndarray) else type(leaf)(array.item())
