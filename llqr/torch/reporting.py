"""What the torch optimizer tells its user: warnings, the last fit, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from llqr.preconditioner import FitReport, Preconditioner
from llqr.solvers import Status


class NonFiniteWarning(RuntimeWarning):
    """NaN or Inf met in training; training went on as the message says."""


class FitSummary(NamedTuple):
    """The last fit in plain numbers; ``str`` gives one sentence with advice.

    Attributes:
        status: why the solver stopped.
        objective_start: m at the factors the fit started from.
        objective: m at the factors it returned.
        steps: inner steps.
        products: curvature-vector products spent.
        rises: inner steps at which the objective rose.
        damping: λ.
        accepted: were the fitted factors taken into use.
        message: the same in words, naming the block that went wrong.
    """

    status: Status
    objective_start: float
    objective: float
    steps: int
    products: int
    rises: int
    damping: float
    accepted: bool
    message: str

    def __str__(self) -> str:
        if self.status is Status.RUNNING:
            return "no fit yet"
        verdict = "taken into use" if self.accepted else "not taken into use"
        return f"{self.message}; {verdict}"


def summary(preconditioner: Preconditioner, report: FitReport) -> FitSummary:
    """Return a fit's numbers; waits for the device."""
    return FitSummary(
        status=Status(int(report.status)),
        objective_start=float(report.objective_start),
        objective=float(report.objective),
        steps=int(report.steps),
        products=int(report.products),
        rises=int(report.rises),
        damping=float(report.damping),
        accepted=bool(report.accepted),
        message=preconditioner.describe_fit(report),
    )


def left_alone(named: Mapping[str, Tensor], preconditioned: Iterable[str]) -> str:
    """Return one line per parameter of the model that is not preconditioned, with the reason."""
    taken = set(preconditioned)
    return "".join(
        f"\nnot preconditioned: {name} {tuple(parameter.shape)} "
        f"({'in no param group' if parameter.requires_grad else 'frozen'})"
        for name, parameter in named.items()
        if name not in taken
    )


def skipped_step(
    names: list[str], count: int, kept: str = "parameters, base optimizer and factors"
) -> str:
    """Return the warning for a step skipped because of a non-finite gradient.

    Args:
        names: parameters whose gradient is not finite, at least one.
        count: steps skipped so far.
        kept: what stays as it was.
    """
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"the gradient of {shown} is not finite, so this step was skipped ({count} skipped so far): "
        f"{kept} stay as they were; lower the learning rate, clip the gradient, or check the batch and "
        "the loss for NaN"
    )


def failed_fit(last: FitSummary) -> str:
    """Return the warning for a fit that met non-finite numbers."""
    return f"a fit met non-finite numbers, and the last good factors stay in use: {last}"
