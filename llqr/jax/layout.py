"""The core's preconditioner for a pytree of parameters, and whether a state belongs to it."""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp

from llqr.config import LLQRConfig
from llqr.jax.backend import JaxBackend
from llqr.jax.naming import Naming
from llqr.multiplier import check_anchor
from llqr.preconditioner import Preconditioner
from llqr.state import PreconditionerState
from llqr.structures import fold_output_last


def make_preconditioner(
    naming: Naming, config: LLQRConfig, backend: JaxBackend | None = None
) -> Preconditioner:
    """Return the core's preconditioner for named parameters.

    Args:
        naming: the parameters.
        config: settings.
        backend: array operations, None for the default ones.

    Raises:
        ValueError: if a structure asks for the base update, which is not known before the base runs.
    """
    preconditioner = Preconditioner(
        backend or JaxBackend(), config, naming.shapes, fold_output_last
    )
    check_sources(preconditioner.sources, config)
    return preconditioner


def check_sources(sources: Iterable[str], config: LLQRConfig) -> None:
    """Raise unless the vectors that structures act on exist in this configuration.

    Raises:
        ValueError: naming those that do not and the remedy.
    """
    known = {"input", "gradient"} | ({"update"} if config.apply_to == "update" else set())
    unknown = sorted(set(sources) - known)
    if unknown:
        raise ValueError(
            f"structures may act on {sorted(known)} with apply_to={config.apply_to!r}, got "
            f'{unknown}; set apply_to="update" to act on the base optimizer\'s update'
        )


def check_layout(
    state: PreconditionerState, preconditioner: Preconditioner, naming: Naming
) -> None:
    """Raise unless the factors of a state are those of the preconditioner.

    Raises:
        ValueError: naming the first block that differs.
    """
    advice = "use the configuration and parameters the state was made with, or call init(params)"
    expected = {
        block.name: block.structure.factor_shapes(block.block_shape)
        for block in preconditioner.blocks
    }
    check_anchor(preconditioner.config.multiplier, preconditioner.shapes, state.multiplier.anchor)
    layout = preconditioner.layout()
    for name in expected:
        if name not in state.factors:
            raise ValueError(
                f"state is of another configuration: it has no block {name!r} ({layout[name]}), but "
                f"{sorted(state.factors)}; {advice}"
            )
    for name, factors in state.factors.items():
        if name not in expected:
            raise ValueError(
                f"state is of another configuration: its block {name!r} is none of "
                f"{sorted(expected)}; {advice}"
            )
        shapes = {key: tuple(value.shape) for key, value in factors.items()}
        if shapes != expected[name]:
            raise ValueError(
                f"state is of another configuration: block {name!r} must have the factors "
                f"{expected[name]} ({layout[name]}), got {shapes}; {advice}"
            )
        for key, value in factors.items():
            if value.dtype != naming.factor_dtype:
                raise ValueError(
                    f"state has another dtype: factor {key!r} of block {name!r} must be "
                    f"{jnp.dtype(naming.factor_dtype)}, got {value.dtype}; restore it in the dtype it "
                    "was saved in"
                )
