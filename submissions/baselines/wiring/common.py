"""What the baselines of both frameworks share."""

import math
from collections.abc import Iterator
from typing import Any

BATCH_SIZES = {
    "rosenbrock": 8,
    "digits": 128,
    "digits_autoencoder": 128,
    "grokking": 512,
    "cifar": 128,
    "criteo1tb": 262_144,
    "fastmri": 32,
    "imagenet_resnet": 1024,
    "imagenet_vit": 1024,
    "librispeech_conformer": 256,
    "librispeech_deepspeech": 256,
    "mnist": 64,
    "ogbg": 512,
    "wmt": 128,
}
"""Global batch sizes; those of AlgoPerf's workloads are the ones of its own baselines."""


def get_batch_size(workload_name: str) -> int:
    """Return the global batch size of a workload or of the workload it is a variant of.

    Raises:
        ValueError: for an unknown workload.
    """
    for name in sorted(BATCH_SIZES, key=len, reverse=True):
        if workload_name == name or workload_name.startswith(f"{name}_"):
            return BATCH_SIZES[name]
    raise ValueError(f"no batch size for {workload_name!r}; known: {', '.join(BATCH_SIZES)}")


def data_selection(
    workload: Any,
    input_queue: Iterator[dict[str, Any]],
    optimizer_state: Any,
    current_param_container: Any,
    model_state: Any,
    hyperparameters: Any,
    global_step: int,
    rng: Any,
) -> dict[str, Any]:
    """Return the next batch."""
    return next(input_queue)


def warmup_steps(workload: Any, hyperparameters: Any) -> int:
    """Return the length of the warm-up, at least one step."""
    return max(int(hyperparameters.warmup_factor * workload.step_hint), 1)


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the factor of a linear warm-up followed by a cosine decay to zero.

    Args:
        step: steps done before this one.
        warmup_steps: length of the warm-up.
        total_steps: step at which the factor reaches zero.

    Returns:
        A number in [0, 1].
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def model_options(hyperparameters: Any) -> dict[str, float]:
    """Return the dropout rate for the model, where the search space has one."""
    rate = _fields(hyperparameters).get("dropout_rate")
    return {} if rate is None else {"dropout_rate": rate}


def label_smoothing(hyperparameters: Any) -> float:
    """Return the label smoothing, 0 where the search space has none."""
    return _fields(hyperparameters).get("label_smoothing", 0.0)


def _fields(hyperparameters: Any) -> dict[str, Any]:
    """Fields of a named tuple or a namespace; none of None, which self-tuning submissions get."""
    if hyperparameters is None:
        return {}
    if hasattr(hyperparameters, "_asdict"):
        return hyperparameters._asdict()
    return vars(hyperparameters)
