"""What the baselines of both frameworks read from hyperparameters."""

from typing import Any


def warmup_steps(workload: Any, hyperparameters: Any) -> int:
    """Return the length of the warm-up, at least one step."""
    return max(int(hyperparameters.warmup_factor * workload.step_hint), 1)


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
