"""Scikit-learn's digits with one fixed split, for the classifier and the autoencoder."""

import functools

import numpy as np

from workloads_extra.data import Split, fixed_splits

SPLIT_SIZES = {"train": 1197, "validation": 300, "test": 300}
_SPLIT_SEED = 0
_LARGEST_PIXEL = 16.0


@functools.cache
def digit_splits() -> dict[str, Split]:
    """Return the splits.

    Returns:
        Per split, inputs [examples, 64] in [0, 1], float32, and classes [examples], int64.

    Raises:
        ModuleNotFoundError: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the digits workloads read scikit-learn's images; install it: pip install scikit-learn"
        ) from error
    pixels, classes = load_digits(return_X_y=True)
    examples = Split((pixels / _LARGEST_PIXEL).astype(np.float32), classes.astype(np.int64))
    return fixed_splits(examples, SPLIT_SIZES, _SPLIT_SEED)
