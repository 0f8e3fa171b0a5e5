"""Write a stand-in for MNIST where AlgoPerf's ``mnist`` workload looks for it, without a download.

    python scripts/make_mnist.py DATA_DIR [--label_noise 0.2]

Scikit-learn's digits (8 × 8) are enlarged to 20 × 20, shifted by up to one pixel in a frame of 28 × 28 and
varied in brightness until there are 60 000 training and 10 000 test images; test images come from digits that
the training images do not use. The folder DATA_DIR/mnist has the format of TensorFlow Datasets and serves
both frameworks' workloads. With wrong labels the accuracy has a ceiling below AlgoPerf's target, so that a
run lasts as many steps as it is told to.

Needs ``tensorflow-datasets`` and ``scikit-learn``, which an AlgoPerf installation has.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VERSION = "3.0.1"
"""Of the data set in TensorFlow Datasets that AlgoPerf loads by name."""
SIZES = {"train": 60_000, "test": 10_000}
TRAIN_DIGITS = 1500
SIDE, INNER, SHIFT = 28, 20, 1


def sources() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return split ↦ enlarged images [digits, 20, 20] with values in [0, 1], and their classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = digits.images / 16.0
    position = np.linspace(0, small.shape[1] - 1, INNER)
    low = np.minimum(position.astype(int), small.shape[1] - 2)
    weights = np.zeros((INNER, small.shape[1]))
    weights[np.arange(INNER), low] = 1 - (position - low)
    weights[np.arange(INNER), low + 1] = position - low
    images = np.einsum("ia,nab,jb->nij", weights, small, weights)
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[:TRAIN_DIGITS], "test": order[TRAIN_DIGITS:]}
    return {split: (images[part], digits.target[part]) for split, part in parts.items()}


def examples(
    images: np.ndarray, labels: np.ndarray, size: int, seed: int, label_noise: float
) -> Iterator[dict[str, Any]]:
    """Yield ``size`` varied examples: image [28, 28, 1] of uint8 and label."""
    rng = np.random.default_rng(seed)
    for _ in range(size):
        chosen = rng.integers(len(images))
        top, left = (SIDE - INNER) // 2 + rng.integers(-SHIFT, SHIFT + 1, size=2)
        canvas = np.zeros((SIDE, SIDE, 1))
        canvas[top : top + INNER, left : left + INNER, 0] = images[chosen] * rng.uniform(0.6, 1.0)
        wrong = rng.uniform() < label_noise
        label = rng.integers(10) if wrong else labels[chosen]
        yield {"image": np.round(255 * canvas).astype(np.uint8), "label": int(label)}


def write(directory: Path, label_noise: float) -> Path:
    """Write the data set and return its folder.

    Raises:
        SystemExit: if the folder is there already.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    target = directory / "mnist" / VERSION
    if target.exists():
        raise SystemExit(f"{target} must not exist yet; remove it, or choose another folder")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(SIDE, SIDE, 1)),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
    )
    signature = {
        "image": tf.TensorSpec((SIDE, SIDE, 1), tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
    }
    found = sources()

    def dataset(split: str, seed: int) -> tf.data.Dataset:
        def generate() -> Iterator[dict[str, Any]]:
            yield from examples(*found[split], SIZES[split], seed, label_noise)

        return tf.data.Dataset.from_generator(generate, output_signature=signature)

    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version=VERSION,
        features=features,
        split_datasets={split: dataset(split, seed) for seed, split in enumerate(SIZES)},
        data_dir=directory,
        disable_shuffling=True,
    )
    return target


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="DATA_DIR, later AlgoPerf's --data_dir")
    parser.add_argument("--label_noise", type=float, default=0.0, help="share of random labels")
    arguments = parser.parse_args()
    if not 0 <= arguments.label_noise <= 1:
        sys.exit(f"--label_noise must be in [0, 1], got {arguments.label_noise}")
    print(write(arguments.directory, arguments.label_noise))


if __name__ == "__main__":
    main()
