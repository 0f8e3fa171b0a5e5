"""How a new fit enters the factors in use, and when the next one is due; both may follow a schedule."""

from __future__ import annotations

from typing import Any

from llqr._checks import check_fraction, check_positive_int, is_number
from llqr.backend import Array, Backend
from llqr.settings import LLQRConfig
from llqr.solvers.problem import map_factors
from llqr.state import PreconditionerState
from llqr.structures.blocks import BlockFactors


def average(
    backend: Backend, config: LLQRConfig, state: PreconditionerState, fitted: BlockFactors
) -> BlockFactors:
    """Return U ← β U + (1 − β) U_new.

    De-biased, the weight of U_new is (1 − β) / (1 − β^(fits + 1)): the first fit counts in full.

    Args:
        backend: array operations.
        config: its ``ema_decay`` is β or a schedule of the number of fits.
        state: holds U and the number of fits.
        fitted: U_new.

    Raises:
        ValueError: if the schedule returns a plain number outside [0, 1).
    """
    beta: Any = config.ema_decay
    if callable(beta):
        # As a float of the factors' dtype: torch would turn integer arithmetic into float32.
        beta = beta(backend.asarray(state.fits, state.smoothness))
        if is_number(beta):  # a traced value cannot be checked
            check_fraction("the value of ema_decay's schedule", beta, 0.95)
    beta = backend.asarray(beta, state.smoothness)
    weight = 1.0 - beta
    if config.ema_debias:
        weight = weight / (1.0 - beta ** (state.fits + 1))

    def mix(old: Array, new: Array) -> Array:
        return old + backend.asarray(weight, old) * (backend.asarray(new, old) - old)

    return map_factors(mix, state.factors, fitted)


def interval(backend: Backend, config: LLQRConfig, state: PreconditionerState) -> Array:
    """Return the number of steps to the next fit, a 0-d integer.

    Args:
        backend: array operations.
        config: its ``update_interval`` is that number or a schedule of the step.
        state: holds the step.

    Raises:
        ValueError: if the schedule returns a plain number below 1.
    """
    value: Any = config.update_interval
    if callable(value):
        value = value(state.step)
        if is_number(value) and value < 1:  # a traced value cannot be checked
            check_positive_int("the value of update_interval's schedule", value)
    return backend.integer(value, state.step)
