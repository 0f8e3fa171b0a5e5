"""The optimizer's state as tensors, integers and strings, checked before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llqr.lengths import Lengths
from llqr.multiplier import Multiplier, check_anchor
from llqr.pace import Pace
from llqr.preconditioner import FitReport, Preconditioner, PreconditionerState
from llqr.torch.distributed import ProcessGroup, from_first_process

VERSION = 8
KEY = "llqr"
"""Where this state stands beside the base optimizer's ``"state"`` and ``"param_groups"``."""

_COUNTERS = ("step", "next_fit", "fits", "rejected", "fallbacks", "interval")
_NUMBERS = ("smoothness", "ridge")


def pack(preconditioner: Preconditioner, state: PreconditionerState, skipped: int) -> dict:
    """Return everything that changes, with the layout it belongs to."""
    return {
        "version": VERSION,
        "layout": preconditioner.layout(),
        "factors": {
            block: {name: factor.detach().clone() for name, factor in factors.items()}
            for block, factors in state.factors.items()
        },
        "counters": {name: int(getattr(state, name)) for name in _COUNTERS} | {"skipped": skipped},
        "numbers": {name: getattr(state, name).detach().clone() for name in _NUMBERS},
        "reach": _copied(state.reach),
        "lengths": {
            "common": state.lengths.common.detach().clone(),
            "steps": int(state.lengths.steps),
            "relative": _copied(state.lengths.relative),
        },
        "pace": {"length": state.pace.length.detach().clone(), "steps": int(state.pace.steps)},
        "multiplier": {
            "value": state.multiplier.value.detach().clone(),
            "failures": int(state.multiplier.failures),
            "first": state.multiplier.first.detach().clone(),
            "last": state.multiplier.last.detach().clone(),
            "level": state.multiplier.level.detach().clone(),
            "losses": int(state.multiplier.losses),
            "anchor": _copied(state.multiplier.anchor),
        },
        "last_fit": {name: value.clone() for name, value in state.last_fit._asdict().items()},
    }


def check(preconditioner: Preconditioner, saved: Any) -> None:
    """Raise unless a packed state belongs to this configuration.

    Raises:
        ValueError: naming the first difference.
    """
    if not isinstance(saved, Mapping) or KEY not in saved:
        raise ValueError(
            f'state_dict must hold the key "{KEY}", got {_keys(saved)}; a state of the base '
            "optimizer alone goes to optimizer.base_optimizer.load_state_dict"
        )
    own = saved[KEY]
    if own.get("version") != VERSION:
        raise ValueError(
            f"state_dict must have version {VERSION}, got {own.get('version')!r}; load it with the "
            "release of llqr that saved it"
        )
    layout, found = preconditioner.layout(), own["layout"]
    for block in sorted({*layout, *found}):
        if layout.get(block) != found.get(block):
            raise ValueError(
                f"state_dict belongs to another configuration: block {block!r} is "
                f"({layout.get(block, 'missing')}) here and ({found.get(block, 'missing')}) in the "
                "state; build the optimizer with the structure, model and param groups it was "
                "saved with"
            )
    check_anchor(
        preconditioner.config.multiplier, preconditioner.shapes, own["multiplier"]["anchor"]
    )
    for block in preconditioner.blocks:
        shapes = block.structure.factor_shapes(block.block_shape)
        given = {k: tuple(v.shape) for k, v in own["factors"].get(block.name, {}).items()}
        if given != {name: tuple(shape) for name, shape in shapes.items()}:
            raise ValueError(
                f"state_dict factors of block {block.name!r} must have shapes {shapes}, got {given}; "
                "the file is damaged, so load an earlier one"
            )


def unpack(
    preconditioner: Preconditioner, saved: Any, like: Tensor
) -> tuple[PreconditionerState, int]:
    """Return a checked state in the dtype and on the device of ``like``, and the skipped count."""
    own = saved[KEY]
    integer, number = preconditioner.backend.integer, preconditioner.backend.asarray
    counters = own["counters"]
    last_fit = FitReport(
        **{
            name: (number if value.is_floating_point() else integer)(value, like)
            for name, value in own["last_fit"].items()
        }
    )
    lengths, multiplier = own["lengths"], own["multiplier"]
    state = PreconditionerState(
        factors={
            block: {name: number(factor, like).clone() for name, factor in factors.items()}
            for block, factors in own["factors"].items()
        },
        last_fit=last_fit,
        reach={block: number(value, like).clone() for block, value in own["reach"].items()},
        lengths=Lengths(
            common=number(lengths["common"], like).clone(),
            steps=integer(lengths["steps"], like),
            relative={
                block: number(value, like).clone() for block, value in lengths["relative"].items()
            },
        ),
        pace=Pace(
            length=number(own["pace"]["length"], like).clone(),
            steps=integer(own["pace"]["steps"], like),
        ),
        multiplier=Multiplier(
            value=number(multiplier["value"], like).clone(),
            failures=integer(multiplier["failures"], like),
            first=number(multiplier["first"], like).clone(),
            last=number(multiplier["last"], like).clone(),
            level=number(multiplier["level"], like).clone(),
            losses=integer(multiplier["losses"], like),
            anchor={
                name: number(value, like).clone() for name, value in multiplier["anchor"].items()
            },
        ),
        **{name: number(own["numbers"][name], like).clone() for name in _NUMBERS},
        **{name: integer(counters[name], like) for name in _COUNTERS},
    )
    return state, counters["skipped"]


def carry_over(
    preconditioner: Preconditioner,
    old: Preconditioner,
    state: PreconditionerState,
    fresh: PreconditionerState,
) -> PreconditionerState:
    """Return the state for changed parameters: unchanged blocks keep their factors, others start over."""
    before, after = old.layout(), preconditioner.layout()
    like = fresh.ridge
    kept = {
        block: {name: factor.to(like) for name, factor in state.factors[block].items()}
        for block in after
        if before.get(block) == after[block]
    }
    moved = {name: preconditioner.backend.integer(getattr(state, name), like) for name in _COUNTERS}
    return fresh._replace(
        factors={**fresh.factors, **kept},
        reach={**fresh.reach, **{block: state.reach[block].to(like) for block in kept}},
        lengths=Lengths(
            common=state.lengths.common.to(like),
            steps=preconditioner.backend.integer(state.lengths.steps, like),
            relative={
                **fresh.lengths.relative,
                **{block: state.lengths.relative[block].to(like) for block in kept},
            },
        ),
        pace=Pace(
            length=state.pace.length.to(like),
            steps=preconditioner.backend.integer(state.pace.steps, like),
        )
        if before == after
        else fresh.pace,
        multiplier=Multiplier(
            value=state.multiplier.value.to(like),
            failures=state.multiplier.failures.to(like.device),
            first=state.multiplier.first.to(like),
            last=state.multiplier.last.to(like),
            level=state.multiplier.level.to(like),
            losses=state.multiplier.losses.to(like.device),
            anchor={
                name: state.multiplier.anchor.get(name, value).to(like)
                for name, value in fresh.multiplier.anchor.items()
            },
        ),
        last_fit=FitReport(
            *(v.to(like) if v.is_floating_point() else v.to(like.device) for v in state.last_fit)
        ),
        **{name: getattr(state, name).to(like) for name in _NUMBERS},
        **moved,
    )


def in_all_processes(
    fitted: PreconditionerState, group: ProcessGroup | None
) -> PreconditionerState:
    """Return the first process's state: rounding may differ between machines."""
    values = fitted._asdict() | {
        "last_fit": fitted.last_fit._asdict(),
        "lengths": fitted.lengths._asdict(),
        "pace": fitted.pace._asdict(),
        "multiplier": fitted.multiplier._asdict(),
    }
    same = from_first_process(values, group)
    nested = {
        "last_fit": FitReport(**same["last_fit"]),
        "lengths": Lengths(**same["lengths"]),
        "pace": Pace(**same["pace"]),
        "multiplier": Multiplier(**same["multiplier"]),
    }
    return PreconditionerState(**same | nested)


def _copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {block: value.detach().clone() for block, value in values.items()}


def _keys(saved: Any) -> str:
    return str(sorted(map(str, saved))) if isinstance(saved, Mapping) else type(saved).__name__
