"""Reading a state outside compiled code: what was fitted, whether it belongs to a configuration."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from llqr import structures
from llqr.config import LLQRConfig
from llqr.jax.layout import check_layout, make_preconditioner
from llqr.jax.naming import Naming
from llqr.jax.optimizer import LLQRState
from llqr.solvers import Status


def report(params: Any, config: LLQRConfig) -> str:
    """Return a table: what each parameter gets and the memory its factors take.

    Args:
        params: pytree of parameters, or of ``jax.ShapeDtypeStruct``.
        config: settings.
    """
    naming = Naming.of(params)
    blocks = make_preconditioner(naming, config).blocks
    return structures.report(blocks, jnp.dtype(naming.factor_dtype).itemsize)


def check_state(state: Any, params: Any, config: LLQRConfig) -> None:
    """Raise unless a state (or every LLQR state nested in it) fits parameters and configuration.

    Args:
        state: an optimizer state, e.g. one read from a checkpoint.
        params: pytree of parameters.
        config: settings.

    Raises:
        ValueError: naming the first block that differs, or if there is no LLQR state.
    """
    naming = Naming.of(params)
    preconditioner = make_preconditioner(naming, config)
    for own in find_states(state):
        check_layout(own.preconditioner, preconditioner, naming)


def summary(state: Any, params: Any = None, config: LLQRConfig | None = None) -> str:
    """Return readable counters and the outcome of the last fit; only outside of compiled code.

    Args:
        state: an :class:`LLQRState`, or a state that holds some (``optax.chain``, ``optax.MultiSteps``, …).
        params: with ``config``, lets the text name a block whose numbers were not finite.
        config: settings.

    Raises:
        ValueError: if there is no LLQR state.
    """
    names: tuple[str, ...] = ()
    if config is not None:
        names = tuple(block.name for block in make_preconditioner(Naming.of(params), config).blocks)
    return "\n".join(_describe(own, names) for own in find_states(state))


def find_states(state: Any) -> list[LLQRState]:
    """Return the LLQR states in a nested optimizer state.

    Raises:
        ValueError: if there is none.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LLQRState))
    found = [leaf for leaf in leaves if isinstance(leaf, LLQRState)]
    if not found:
        raise ValueError(
            f"state must hold an LLQRState, got {type(state).__name__}; pass what optimizer.init or "
            "optimizer.update returned (restore checkpoints with that as the target)"
        )
    return found


def _describe(state: LLQRState, names: tuple[str, ...]) -> str:
    inner = jax.device_get(state.preconditioner)
    fit = inner.last_fit
    status, bad = Status(int(fit.status)), int(fit.bad_block)
    where = ""
    if bad >= 0:
        where = f" in block {names[bad]!r}" if names else f" in block number {bad} of the report"
    lines = [
        f"step {int(inner.step)}: {int(inner.fits)} fits taken, {int(inner.rejected)} rejected, next at "
        f"step {int(inner.next_fit)}",
        f"steps skipped for gradients that are not finite: {int(state.skipped)}; blocks that fell back "
        f"to their input: {int(inner.fallbacks)}",
        f"last fit: {status.name}{where}: {status.advice}",
    ]
    if status is not Status.RUNNING:
        lines.append(
            f"  objective {float(fit.objective_start):.6g} → {float(fit.objective):.6g} in "
            f"{int(fit.steps)} steps and {int(fit.products)} products ({int(fit.rises)} rises), damping "
            f"{float(fit.damping):.3g}, {'taken into use' if int(fit.accepted) else 'thrown away'}"
        )
    return "\n".join(lines)
