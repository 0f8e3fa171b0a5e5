"""The only place where strings become objects.

:class:`llqr.settings.LLQRConfig` takes objects. :func:`configure` takes names and plain numbers, as a
search space or a command line gives them, and builds one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from llqr import divergences, solvers, structures
from llqr._checks import is_number
from llqr.curvature import AbstractCurvature, GaussNewton, Hessian, LossHessian, gauss_newton
from llqr.damping import ConstantDamping, Damping, GradientNormDamping
from llqr.intervals import Schedule
from llqr.metrics import AbstractMetric
from llqr.settings import LLQRConfig
from llqr.structures.base import AbstractStructure
from llqr.structures.blocks import StructureChoice

__all__ = [
    "CURVATURES",
    "LIKELIHOODS",
    "SOLVERS",
    "STRUCTURES",
    "LLQRConfig",
    "Schedule",
    "check_known",
    "configure",
    "make_curvature",
    "make_likelihood",
    "make_solver",
    "make_structure",
]

LIKELIHOODS: Mapping[str, Callable[..., AbstractMetric]] = {
    "categorical": divergences.Categorical,
    "bernoulli": divergences.Bernoulli,
    "gaussian": divergences.Gaussian,
    "laplace": divergences.Laplace,
    "framewise_categorical": divergences.FramewiseCategorical,
}
STRUCTURES: Mapping[str, Callable[..., AbstractStructure]] = {
    "scalar": structures.Scalar,
    "diagonal": structures.Diagonal,
    "dense": structures.Dense,
    "kronecker": structures.Kronecker,
    "ekfac": structures.EKFAC,
    "separable_ekfac": structures.SeparableEKFAC,
    "low_rank": structures.LowRank,
    "lodo": structures.LODO,
    "span": structures.Span,
}
SOLVERS: Mapping[str, Callable[..., solvers.AbstractInnerSolver]] = {
    "momentum": solvers.GradientDescent,
    "adam": solvers.Adam,
    "conjugate_gradient": solvers.ConjugateGradient,
    "direct": solvers.DirectSolve,
}
CURVATURES = ("newton", "gauss_newton", "fisher", "renyi")


def make_likelihood(name: str, **options: Any) -> AbstractMetric:
    """Return the Fisher metric of a loss type by name: see :data:`LIKELIHOODS`."""
    return _make("likelihood", name, LIKELIHOODS, options)


def make_structure(name: str, **options: Any) -> AbstractStructure:
    """Return a structure by name: see :data:`STRUCTURES`."""
    return _make("structure", name, STRUCTURES, options)


def make_solver(name: str, **options: Any) -> solvers.AbstractInnerSolver:
    """Return an inner solver by name: see :data:`SOLVERS`."""
    return _make("inner_solver", name, SOLVERS, options)


def make_curvature(
    name: str,
    *,
    likelihood: str | AbstractMetric = "categorical",
    curvature_reduction: Literal["mean", "sum"] = "mean",
    renyi_order: float = 0.5,
    output_metric: float = 0.0,
) -> AbstractCurvature:
    """Return a curvature by name.

    Args:
        name: ``"newton"``, ``"gauss_newton"``, ``"fisher"`` or ``"renyi"``.
        likelihood: loss type whose Fisher is used, for ``"fisher"`` and ``"renyi"``.
        curvature_reduction: ``"mean"``, or ``"sum"`` over the batch as in the published code.
        renyi_order: α > 0, for ``"renyi"``.
        output_metric: ε ≥ 0 added to the Fisher of the outputs.

    Returns:
        The curvature object.

    Raises:
        ValueError: for unknown names, listing the known ones, or a setting out of range.
    """
    check_known("curvature", name, CURVATURES)
    if name == "newton":
        if curvature_reduction != "mean" or output_metric != 0.0:
            raise ValueError(
                "curvature 'newton' is the Hessian of the loss itself, so it takes neither "
                f"curvature_reduction={curvature_reduction!r} nor output_metric={output_metric!r}; "
                "leave both at their defaults"
            )
        return Hessian()
    if name == "gauss_newton":
        if output_metric != 0.0:
            raise ValueError(
                f"output_metric belongs to 'fisher' and 'renyi', got {output_metric!r} for "
                "'gauss_newton'; leave it at 0"
            )
        return GaussNewton(metric=LossHessian(), reduction=curvature_reduction)
    metric = make_likelihood(likelihood) if isinstance(likelihood, str) else likelihood
    if name == "renyi":
        metric = divergences.Renyi(order=renyi_order, base=metric)
    return gauss_newton(metric, output_metric=output_metric, reduction=curvature_reduction)


def configure(
    *,
    curvature: str | AbstractCurvature = "fisher",
    structure: str | StructureChoice = "diagonal",
    inner_solver: str | solvers.AbstractInnerSolver = "momentum",
    damping: float | Literal["gradient_norm"] | Damping = 0.0,
    curvature_options: Mapping[str, Any] | None = None,
    structure_options: Mapping[str, Any] | None = None,
    solver_options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> LLQRConfig:
    """Build a configuration from names and numbers.

    Args:
        curvature: a name of :data:`CURVATURES`, or an object.
        structure: a name of :data:`STRUCTURES`, an object, or a function of name and shape.
        inner_solver: a name of :data:`SOLVERS`, or an object.
        damping: λ ≥ 0, ``"gradient_norm"``, or an object.
        curvature_options: settings of :func:`make_curvature`, e.g. ``{"likelihood": "bernoulli"}``.
        structure_options: settings of the structure, e.g. ``{"max_factor_dim": 512}``.
        solver_options: settings of the solver, e.g. ``{"steps": 10}``.
        **settings: further fields of :class:`LLQRConfig`.

    Returns:
        The validated configuration.

    Raises:
        ValueError: for unknown names, listing the known ones, and values out of range.
        TypeError: for unknown settings, or options beside an object they cannot apply to.
    """
    _check_options("setting", settings, LLQRConfig)
    builders: dict[str, tuple[Any, Mapping[str, Any] | None, Callable[..., Any]]] = {
        "curvature": (curvature, curvature_options, make_curvature),
        "structure": (structure, structure_options, make_structure),
        "inner_solver": (inner_solver, solver_options, make_solver),
    }
    built: dict[str, Any] = {}
    for name, (value, options, build) in builders.items():
        if isinstance(value, str):
            if name == "curvature":
                _check_options("curvature option", options or {}, make_curvature)
            built[name] = build(value, **(options or {}))
        elif options:
            raise TypeError(
                f"options for {name} go with a name, got {dict(options)!r} beside {value!r}; "
                "set them on the object"
            )
        else:
            built[name] = value
    return LLQRConfig(**built, damping=_make_damping(damping), **settings)


def _make_damping(value: Any) -> Damping:
    if isinstance(value, str):
        check_known("damping", value, ("gradient_norm",), "or pass a number of at least 0")
        return GradientNormDamping()
    return ConstantDamping(value=float(value)) if is_number(value) else value


def _make(
    argument: str,
    name: str,
    known: Mapping[str, Callable[..., Any]],
    options: Mapping[str, Any],
) -> Any:
    check_known(argument, name, known)
    _check_options(f"option for {argument} {name!r}:", options, known[name])
    return known[name](**options)


def check_known(argument: str, name: object, known: Iterable[str], remedy: str = "") -> None:
    """Raise unless ``name`` is one of the known ones.

    Raises:
        ValueError: listing the known names.
    """
    if not isinstance(name, str) or name not in known:
        more = f"; {remedy}" if remedy else ""
        raise ValueError(f"unknown {argument} {name!r}; known: {', '.join(sorted(known))}{more}")


def _check_options(what: str, options: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise for options that ``target`` has no keyword argument for, listing those it has."""
    known = [
        parameter.name
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise TypeError(f"unknown {what} {name!r}; known: {listed}")
