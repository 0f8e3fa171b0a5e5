"""How a new fit enters the factors in use; its weight may follow a schedule."""

from __future__ import annotations

from typing import Any

from llqr._checks import check_fraction, is_number
from llqr.backend import Array, Backend
from llqr.settings import LLQRConfig
from llqr.solvers.problem import map_factors
from llqr.state import PreconditionerState
from llqr.structures.blocks import BlockFactors


def average(
    backend: Backend,
    config: LLQRConfig,
    state: PreconditionerState,
    fitted: BlockFactors,
    replace: Array | None = None,
) -> BlockFactors:
    """Return U ← β U + (1 − β) U_new.

    De-biased, the weight of U_new is (1 − β) / (1 − β^(fits + 1)): the first fit counts in full.

    Args:
        backend: array operations.
        config: its ``ema_decay`` is β or a schedule of the number of fits.
        state: holds U and the number of fits.
        fitted: U_new.
        replace: take U_new as it is, a 0-d boolean, or None for no.

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

    if replace is not None:
        weight = backend.where(replace, backend.asarray(1.0, beta), weight)

    def mix(old: Array, new: Array) -> Array:
        return old + backend.asarray(weight, old) * (backend.asarray(new, old) - old)

    return map_factors(mix, state.factors, fitted)
