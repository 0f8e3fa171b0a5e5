"""Checkpoints: one file each, checked by a digest, replaced in one step.

A file holds a line that names the format, the SHA-256 of the rest, the length of the header, the header in
JSON and the payload: what `arrays_jax` or `arrays_pytorch` makes of parameters and optimizer state.
Everything that a continuation depends on is inside, so it is identical to an uninterrupted run: the
position in the data, the seed, the times, and PyTorch's random state.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from workloads_extra.runner.errors import CheckpointError
from workloads_extra.runner.storage import write_bytes

_MAGIC = b"workloads_extra checkpoint 1"
_NAME = re.compile(r"checkpoint_(\d+)")


class Model(NamedTuple):
    """What training changes.

    Attributes:
        optimizer_state: of the submission.
        params: parameters, or a PyTorch module.
        model_state: batch statistics and the like.
    """

    optimizer_state: Any
    params: Any
    model_state: Any


class Codec(Protocol):
    """Turns a `Model` of one framework into bytes and back."""

    def encode(self, model: Model) -> tuple[Any, bytes]:
        """Return an index for the header, in JSON, and the payload."""

    def decode(self, index: Any, payload: bytes, template: Model) -> Model:
        """Return the model, in the structure of a freshly initialised one."""


@dataclass(kw_only=True)
class Progress:
    """Where a trial stands.

    Attributes:
        rng_seed: seed of the trial.
        global_step: steps done.
        batches_drawn: batches taken from the training queue.
        preemption_count: how often the trial was resumed.
        train_state: times and flags, as AlgoPerf hands them to submissions.
        eval_results: (step, metrics) of every evaluation.
    """

    rng_seed: int
    global_step: int = 0
    batches_drawn: int = 0
    preemption_count: int = 0
    train_state: dict[str, Any] = field(default_factory=dict)
    eval_results: list[tuple[int, dict[str, float]]] = field(default_factory=list)


def save(
    directory: Path, progress: Progress, model: Model, codec: Codec, *, keep_older: bool
) -> None:
    """Write the checkpoint of a step.

    Args:
        directory: of the trial.
        progress: where it stands.
        model: parameters and states.
        codec: of the framework.
        keep_older: whether earlier checkpoints stay.
    """
    index, payload = codec.encode(model)
    header = json.dumps({"progress": asdict(progress), "index": index}).encode()
    body = b"%d\n" % len(header) + header + payload
    digest = hashlib.sha256(body).hexdigest().encode()
    path = directory / f"checkpoint_{progress.global_step}"
    write_bytes(path, b"\n".join([_MAGIC, digest, body]))
    if not keep_older:
        for other in _all(directory):
            if other != path:
                other.unlink()


def latest(directory: Path) -> Path | None:
    """Return the checkpoint of the largest step, or None."""
    found = _all(directory)
    return max(found, key=_step_of, default=None)


def load_progress(path: Path) -> Progress:
    """Read where a trial stood.

    Args:
        path: of the checkpoint.

    Returns:
        Everything but its model.
    """
    header, _ = _read(path)
    progress = Progress(**header["progress"])
    progress.eval_results = [(step, metrics) for step, metrics in progress.eval_results]
    return progress


def load_model(path: Path, template: Model, codec: Codec) -> Model:
    """Read the model of a checkpoint.

    Args:
        path: of the checkpoint.
        template: a freshly initialised model, whose structure the checkpoint must have.
        codec: of the framework.

    Returns:
        The template with the saved values.

    Raises:
        CheckpointError: if it belongs to another submission or workload.
    """
    header, payload = _read(path)
    try:
        return codec.decode(header["index"], payload, template)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not fit this submission and workload: {error}. Run with the ones it was made "
            "with, or start again with --overwrite"
        ) from error


def _read(path: Path) -> tuple[Any, bytes]:
    """Read a file and check its digest.

    Returns:
        Header and payload.

    Raises:
        CheckpointError: if the file is damaged.
    """
    content = path.read_bytes()
    magic, _, rest = content.partition(b"\n")
    digest, _, body = rest.partition(b"\n")
    if magic != _MAGIC or hashlib.sha256(body).hexdigest().encode() != digest:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint of this runner: its digest does not match. "
            "Delete it to resume from the one before it, or start again with --overwrite"
        )
    length, _, body = body.partition(b"\n")
    return json.loads(body[: int(length)]), body[int(length) :]


def _all(directory: Path) -> list[Path]:
    """All checkpoints of a trial."""
    return [path for path in directory.glob("checkpoint_*") if _NAME.fullmatch(path.name)]


def _step_of(path: Path) -> int:
    """Step in a checkpoint's name."""
    return int(_NAME.fullmatch(path.name).group(1))
