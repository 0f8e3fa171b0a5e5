"""Settings, and the only place where strings become objects.

:class:`LLQRConfig` takes objects. :func:`configure` takes names and plain numbers, as a search space or a
command line gives them, and builds one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llqr import divergences, solvers, structures
from llqr.curvature import AbstractCurvature, GaussNewton, Hessian, LossHessian
from llqr.damping import ConstantDamping, Damping, GradientNormDamping
from llqr.structures.base import AbstractStructure, check_positive_int
from llqr.structures.blocks import Fold, StructureChoice

Schedule = Callable[[Any], Any]
"""A function of a step or fit counter; under JAX it sees and returns traced arrays."""


@dataclass(frozen=True, kw_only=True)
class LLQRConfig:
    """All settings of a preconditioner.

    Attributes:
        curvature: C of the quadratic model.
        structure: one structure, or a function of parameter name and shape.
        inner_solver: how the factors are fitted.
        damping: λ, constant or proportional to the gradient norm.
        update_interval: steps between fits, ≥ 1, or a schedule of the step.
        ema_decay: β in [0, 1) of U ← β U + (1 − β) U_new, or a schedule of the number of fits.
        ema_debias: let the first fit count in full instead of being averaged with the identity.
        warm_start: start a fit from the averaged factors (True) or from the identity (False).
        curvature_batch_size: examples of the batch used for a fit, None for all of it.
        chunk_size: examples linearised at a time, None for all at once; bounds the memory of a fit.
        apply_to: precondition the ``"gradient"`` before the base optimizer or its ``"update"`` after.
        grafting: ``"none"``, or ``"norm"`` to keep the norm of what was preconditioned, per parameter.
        fold: where weights of three or more axes fold; None for the framework's convention.
    """

    curvature: AbstractCurvature
    structure: StructureChoice = field(default_factory=structures.Diagonal)
    inner_solver: solvers.AbstractInnerSolver = field(default_factory=solvers.GradientDescent)
    damping: Damping = field(default_factory=ConstantDamping)
    update_interval: int | Schedule = 1000
    ema_decay: float | Schedule = 0.95  # β
    ema_debias: bool = False
    warm_start: bool = True
    curvature_batch_size: int | None = None
    chunk_size: int | None = None
    apply_to: Literal["gradient", "update"] = "gradient"
    grafting: Literal["none", "norm"] = "none"
    fold: Fold | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        _check_instance("curvature", self.curvature, AbstractCurvature, "llqr.curvature.Hessian()")
        _check_instance(
            "inner_solver",
            self.inner_solver,
            solvers.AbstractInnerSolver,
            "llqr.solvers.ConjugateGradient()",
        )
        _check_instance(
            "damping", self.damping, (ConstantDamping, GradientNormDamping), "ConstantDamping()"
        )
        if not isinstance(self.structure, AbstractStructure) and not callable(self.structure):
            raise TypeError(
                f"structure must be a structure object or a function of name and shape, got "
                f"{self.structure!r}; pass e.g. llqr.structures.Diagonal()"
            )
        if not callable(self.update_interval):
            check_positive_int("update_interval", self.update_interval)
        if not callable(self.ema_decay) and not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(
                f"ema_decay must lie in [0, 1), got {self.ema_decay!r}; 0 disables averaging"
            )
        for name in ("curvature_batch_size", "chunk_size"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        _lookup("apply_to", self.apply_to, {"gradient": None, "update": None})
        _lookup("grafting", self.grafting, {"none": None, "norm": None})


LIKELIHOODS: Mapping[str, Callable[..., divergences.AbstractMetric]] = {
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
    "span": structures.Span,
}
SOLVERS: Mapping[str, Callable[..., solvers.AbstractInnerSolver]] = {
    "momentum": solvers.GradientDescent,
    "adam": solvers.Adam,
    "conjugate_gradient": solvers.ConjugateGradient,
    "direct": solvers.DirectSolve,
}
CURVATURES = ("newton", "gauss_newton", "fisher", "renyi")


def make_likelihood(name: str, **settings: Any) -> divergences.AbstractMetric:
    """Return the Fisher metric of a loss type by name: see :data:`LIKELIHOODS`."""
    return _lookup("likelihood", name, LIKELIHOODS)(**settings)


def make_structure(name: str, **settings: Any) -> AbstractStructure:
    """Return a structure by name: see :data:`STRUCTURES`."""
    return _lookup("structure", name, STRUCTURES)(**settings)


def make_solver(name: str, **settings: Any) -> solvers.AbstractInnerSolver:
    """Return an inner solver by name: see :data:`SOLVERS`."""
    return _lookup("inner_solver", name, SOLVERS)(**settings)


def make_curvature(
    name: str,
    *,
    likelihood: str | divergences.AbstractMetric = "categorical",
    curvature_reduction: Literal["mean", "sum"] = "mean",
    renyi_order: float = 0.5,
    output_metric: float = 0.0,
) -> AbstractCurvature:
    """Return a curvature by name.

    Args:
        name: ``"newton"``, ``"gauss_newton"``, ``"fisher"`` or ``"renyi"``.
        likelihood: loss type whose Fisher is used, for ``"fisher"`` and ``"renyi"``.
        curvature_reduction: ``"mean"``, or ``"sum"`` over the batch as in the published code.
        renyi_order: α, for ``"renyi"``.
        output_metric: ε ≥ 0 added to the Fisher of the outputs.

    Returns:
        The curvature object.

    Raises:
        ValueError: for unknown names, listing the known ones, or a setting out of range.
    """
    _lookup("curvature", name, dict.fromkeys(CURVATURES))
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
    if output_metric < 0.0:
        raise ValueError(f"output_metric must be at least 0, got {output_metric!r}; pass e.g. 0.01")
    if output_metric > 0.0:
        metric = metric + divergences.Gaussian(precision=output_metric)
    return GaussNewton(metric=metric, reduction=curvature_reduction)


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
    builders: dict[str, tuple[Any, Mapping[str, Any] | None, Callable[..., Any]]] = {
        "curvature": (curvature, curvature_options, make_curvature),
        "structure": (structure, structure_options, make_structure),
        "inner_solver": (inner_solver, solver_options, make_solver),
    }
    known = set(LLQRConfig.__dataclass_fields__)
    for name in settings:
        if name not in known:
            raise TypeError(f"unknown setting {name!r}; known settings: {', '.join(sorted(known))}")
    built: dict[str, Any] = {}
    for name, (value, options, build) in builders.items():
        if isinstance(value, str):
            built[name] = _call(name, build, value, dict(options or {}))
        elif options:
            raise TypeError(
                f"options for {name} go with a name, got {dict(options)!r} beside {value!r}; "
                "set them on the object"
            )
        else:
            built[name] = value
    return LLQRConfig(**built, damping=_damping(damping), **settings)


def _call(what: str, build: Callable[..., Any], name: str, options: dict[str, Any]) -> Any:
    try:
        return build(name, **options)
    except TypeError as error:
        raise TypeError(f"options for {what} {name!r}: {error}") from error


def _damping(value: Any) -> Any:
    if value == "gradient_norm":
        return GradientNormDamping()
    if isinstance(value, str):
        raise ValueError(
            f'damping must be a number of at least 0 or "gradient_norm", got {value!r}'
        )
    if isinstance(value, (int, float)):
        return ConstantDamping(value=float(value))
    return value


def _lookup(argument: str, name: Any, known: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"unknown {argument} {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def _check_instance(name: str, value: Any, kind: Any, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be an object such as {example}, got {value!r}")
