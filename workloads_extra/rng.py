"""Random states as AlgoPerf hands them over: JAX keys for JAX, arrays of integers for PyTorch."""

from typing import Any

import numpy as np

_WORDS = 2


def make_rng(framework: str, seed: int) -> Any:
    """Return the random state of a run.

    Args:
        framework: ``jax`` or ``pytorch``.
        seed: any integer.

    Returns:
        A JAX key, or an int64 array of two words.
    """
    if framework == "jax":
        import jax

        return jax.random.key(seed % 2**63)
    return _words(np.random.SeedSequence(abs(seed)))


def split(rng: Any, num: int = 2) -> Any:
    """Return `num` independent random states; indexing or unpacking the result gives one each."""
    if _is_jax(rng):
        import jax

        return jax.random.split(rng, num)
    children = np.random.SeedSequence(seed_of(rng)).spawn(num)
    return np.stack([_words(child) for child in children])


def fold_in(rng: Any, data: int) -> Any:
    """Return the random state that belongs to `rng` and the non-negative integer `data`."""
    if _is_jax(rng):
        import jax

        return jax.random.fold_in(rng, data)
    return _words(np.random.SeedSequence([*seed_of(rng), data]))


def seed_of(rng: Any) -> list[int]:
    """Return non-negative integers that seed NumPy with a random state of either framework.

    Args:
        rng: JAX key (typed or raw), array or sequence of integers, or one integer.

    Returns:
        The words of the state, each in [0, 2**32).
    """
    if _is_jax(rng):
        import jax

        rng = jax.random.key_data(rng)
    words = np.asarray(rng, dtype=np.int64).reshape(-1)
    return [int(word) % 2**32 for word in words]


def _words(sequence: np.random.SeedSequence) -> np.ndarray:
    """Two words below 2**31, which also fit the signed seeds some libraries ask for."""
    return (sequence.generate_state(_WORDS) >> 1).astype(np.int64)


def _is_jax(rng: Any) -> bool:
    """Tell a JAX key apart without importing JAX."""
    return type(rng).__module__.split(".")[0] in ("jax", "jaxlib")
