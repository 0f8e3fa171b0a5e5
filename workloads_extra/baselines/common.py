"""What the NadamW baselines of both frameworks share."""

import math
from collections.abc import Iterator
from typing import Any

BATCH_SIZES = {"rosenbrock": 8, "digits": 128, "digits_autoencoder": 128, "grokking": 512}


def get_batch_size(workload_name: str) -> int:
    """Return the global batch size of a workload or of the workload it is a variant of.

    Raises:
        ValueError: for an unknown workload.
    """
    if workload_name not in BATCH_SIZES:
        raise ValueError(f"no batch size for {workload_name!r}; known: {', '.join(BATCH_SIZES)}")
    return BATCH_SIZES[workload_name]


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
