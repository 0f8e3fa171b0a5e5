"""scikit-learn's digits with a fixed split; the data come with the package, nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from scripts.demo_job.tasks import Task

VALIDATION_EXAMPLES = 360


class Examples(NamedTuple):
    """Arrays of a task.

    Attributes:
        inputs: training inputs [n, 64] in [0, 1]; [1, 1] zeros for Rosenbrock.
        targets: labels [n] for the classifier, else the inputs.
        validation_inputs: as ``inputs``, held out.
        validation_targets: as ``targets``, held out.
        offset: what the loss is lowered by in reports: the entropy of the training targets for the
            autoencoder, so that a perfect reconstruction counts 0.
    """

    inputs: np.ndarray
    targets: np.ndarray
    validation_inputs: np.ndarray
    validation_targets: np.ndarray
    offset: float


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return (images[order] / 16.0).astype(np.float32), labels[order].astype(np.int64)


def load(task: Task) -> Examples:
    """Return the data of a task: 1437 images for training, 360 held out, the same for every run."""
    if not task.layers:
        nothing = np.zeros((1, 1), dtype=np.float32)
        return Examples(nothing, nothing, nothing, nothing, 0.0)
    images, labels = _digits()
    train, held_out = images[:-VALIDATION_EXAMPLES], images[-VALIDATION_EXAMPLES:]
    if task.loss == "cross_entropy":
        return Examples(
            train, labels[:-VALIDATION_EXAMPLES], held_out, labels[-VALIDATION_EXAMPLES:], 0.0
        )
    return Examples(train, train, held_out, held_out, entropy(train))


def entropy(images: np.ndarray) -> float:
    """Return the mean over images [n, d] of Σ −p ln p − (1 − p) ln(1 − p), in nats."""
    p = images.astype(np.float64)
    q = 1.0 - p
    terms = -p * np.log(np.where(p > 0.0, p, 1.0)) - q * np.log(np.where(q > 0.0, q, 1.0))
    return float(terms.sum(axis=1).mean())
