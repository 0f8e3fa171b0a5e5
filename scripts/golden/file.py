"""Reading a golden file.

One ``.npz`` file holds one problem: the architecture (JSON list of [kind, activation]), a batch, parameters
``params/layers_i/{kernel,bias}``, settings of the inner solver, and results in float64. Kernels are [in, out]
(dense) or HWIO (convolutions on NHWC images).
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

KINDS = ("dense", "conv3x3_stride2_same", "flatten_dense")
ACTIVATIONS = ("tanh", "gelu_exact", "log_softmax")
_SETTINGS = ("architecture", "x", "y", "label_smoothing")
_INNER = ("inner_learning_rate", "inner_momentum", "inner_steps")


class GoldenFileError(ValueError):
    """The file is missing, unreadable, or not of the format."""


@dataclass(frozen=True, kw_only=True)
class GoldenFile:
    """Contents of a golden file.

    Attributes:
        architecture: (kind, activation) of every layer.
        x: batch [B, features] or [B, H, W, C].
        y: integer labels [B].
        label_smoothing: of the cross-entropy, in [0, 1).
        parameters: ``layers_i/kernel`` and ``layers_i/bias``.
        probe: a vector to multiply curvatures with, like the parameters.
        learning_rate: inner solver's η.
        momentum: inner solver's μ.
        steps: inner steps.
        results: every entry to be reproduced.
    """

    architecture: tuple[tuple[str, str], ...]
    x: np.ndarray
    y: np.ndarray
    label_smoothing: float
    parameters: dict[str, np.ndarray]
    probe: dict[str, np.ndarray]
    learning_rate: float
    momentum: float
    steps: int
    results: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> GoldenFile:
        """Read a file.

        Raises:
            GoldenFileError: naming what is wrong with it.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                values = {name: archive[name] for name in archive.files}
        except FileNotFoundError as error:
            raise GoldenFileError(f"no file {path}; pass the path of an .npz file") from error
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise GoldenFileError(f"{path} is not a readable .npz file: {error}") from error
        missing = [name for name in (*_SETTINGS, *_INNER) if name not in values]
        if missing:
            raise GoldenFileError(f"{path} lacks {', '.join(missing)}; is it a golden file?")
        settings = {name: values.pop(name) for name in (*_SETTINGS, *_INNER)}
        return cls(
            architecture=_architecture(str(settings["architecture"])),
            x=settings["x"],
            y=settings["y"],
            label_smoothing=float(settings["label_smoothing"]),
            parameters=_pop(values, "params/"),
            probe=_pop(values, "probe/"),
            learning_rate=float(settings["inner_learning_rate"]),
            momentum=float(settings["inner_momentum"]),
            steps=int(settings["inner_steps"]),
            results=values,
        )


def _pop(values: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    names = [name for name in values if name.startswith(prefix)]
    return {name.removeprefix(prefix): values.pop(name) for name in names}


def _architecture(text: str) -> tuple[tuple[str, str], ...]:
    layers = tuple((str(kind), str(activation)) for kind, activation in json.loads(text))
    for kind, activation in layers:
        if kind not in KINDS:
            raise GoldenFileError(f"unknown layer kind {kind!r}; known: {', '.join(KINDS)}")
        if activation not in ACTIVATIONS:
            raise GoldenFileError(
                f"unknown activation {activation!r}; known: {', '.join(ACTIVATIONS)}"
            )
    return layers


def same_padding(size: int) -> tuple[int, int]:
    """Return (before, after) padding of a 3-wide, stride-2 "same" convolution on ``size`` pixels."""
    total = max((-(-size // 2) - 1) * 2 + 3 - size, 0)
    return total // 2, total - total // 2
