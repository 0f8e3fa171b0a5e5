"""All settings of a preconditioner, as one validated record of objects and numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from llqr import solvers, structures
from llqr._checks import check_at_least_one, check_fraction, check_positive_int, is_number
from llqr.annealing import Annealing
from llqr.curvature import AbstractCurvature
from llqr.damping import ConstantDamping, Damping, GradientNormDamping
from llqr.intervals import AdaptiveInterval, Interval, Schedule
from llqr.multiplier import AdaptiveMultiplier
from llqr.structures.base import AbstractStructure
from llqr.structures.blocks import Fold, StructureChoice


@dataclass(frozen=True, kw_only=True)
class LLQRConfig:
    """All settings of a preconditioner.

    Attributes:
        curvature: C of the quadratic model.
        structure: one structure, or a function of parameter name and shape.
        inner_solver: how the factors are fitted.
        damping: λ, constant or proportional to the gradient norm.
        update_interval: steps between fits, ≥ 1, a schedule of the step, or an adaptive rule.
        ema_decay: β in [0, 1) of U ← β U + (1 − β) U_new, or a schedule of the number of fits (which it
            sees as a 0-d array of the factors' dtype).
        ema_debias: let the first fit count in full instead of being averaged with the identity.
        warm_start: start a fit from the averaged factors (True) or from the identity (False).
        curvature_batch_size: examples of the batch used for a fit, None for all of it.
        chunk_size: examples linearised at a time, None for all at once; bounds the memory of a fit. BatchNorm
            that normalises by the batch does so chunk by chunk.
        apply_to: precondition the ``"gradient"`` before the base optimizer or its ``"update"`` after.
        growth: κ ≥ 1, how many times as long as at its last fit a block's U x may become
            (:mod:`llqr.reach`); None for no bound.
        multiplier: rule for a factor on U x (:mod:`llqr.multiplier`), None for 1; needs
            ``apply_to="update"`` and no grafting.
        held_out: ψ in (0, 1], share of the training gradient's examples that the batch given to a fit
            makes up (1 if they are the same): step sizes are then also judged as if every second example
            of the fit had not been in the gradient (:mod:`llqr.holdout`), and the noise of the gradient is
            estimated (:mod:`llqr.ridge`). Needs a solver that judges by the loss, and curvature passes that
            normalise as training does. None for neither.
        annealing: when solved factors give way to lengths that fall to nothing, None for never.
        grafting: ``"none"``, or ``"norm"`` to keep the norm of what was preconditioned, per parameter, and
            to use that itself where U x turns away from it (by more than a right angle).
        fold: where weights of three or more axes fold; None for the framework's convention.
    """

    curvature: AbstractCurvature
    structure: StructureChoice = field(default_factory=structures.Diagonal)
    inner_solver: solvers.AbstractInnerSolver = field(default_factory=solvers.GradientDescent)
    damping: Damping = field(default_factory=ConstantDamping)
    update_interval: Interval = 1000
    ema_decay: float | Schedule = 0.95  # β
    ema_debias: bool = False
    warm_start: bool = True
    curvature_batch_size: int | None = None
    chunk_size: int | None = None
    apply_to: Literal["gradient", "update"] = "gradient"
    growth: float | None = None  # κ
    multiplier: AdaptiveMultiplier | None = None
    held_out: float | None = None  # ψ
    annealing: Annealing | None = None
    grafting: Literal["none", "norm"] = "none"
    fold: Fold | None = None

    def __post_init__(self) -> None:
        """Validate the settings."""
        self._check_objects()
        if isinstance(self.update_interval, AdaptiveInterval):
            if not self.warm_start:
                raise ValueError(
                    "an AdaptiveInterval compares new factors with those in use, where fits start: "
                    "warm_start must be True, got False"
                )
        elif not callable(self.update_interval):
            check_positive_int("update_interval", self.update_interval)
        if not callable(self.ema_decay):
            check_fraction("ema_decay", self.ema_decay, 0.95)
        for name in ("curvature_batch_size", "chunk_size"):
            if getattr(self, name) is not None:
                check_positive_int(name, getattr(self, name))
        if self.growth is not None:
            check_at_least_one("growth", self.growth)
        self._check_held_out()
        self._check_multiplier()
        for name in ("ema_debias", "warm_start"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(
                    f"{name} must be True or False, got {getattr(self, name)!r}; pass a bool"
                )
        for name, known in (("apply_to", ("gradient", "update")), ("grafting", ("none", "norm"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}"
                )

    def _check_held_out(self) -> None:
        if self.held_out is None:
            return
        if not (is_number(self.held_out) and 0.0 < self.held_out <= 1.0):
            raise ValueError(
                f"held_out must be None or a share in (0, 1], got {self.held_out!r}; pass held_out=1.0 if "
                "fits are given the training batch"
            )
        if not self.inner_solver.judges_by_loss:
            raise ValueError(
                f"held_out needs a solver that judges by the loss, got {self.inner_solver!r}; use "
                "DirectSolve(relative_ridge=AdaptiveRidge()) or held_out=None"
            )

    def _check_multiplier(self) -> None:
        if self.multiplier is None:
            return
        if self.apply_to != "update" or self.grafting != "none":
            raise ValueError(
                "a multiplier changes the length of steps, which neither a base optimizer's gradient nor a "
                'grafted update has: apply_to must be "update" and grafting "none", got '
                f"{self.apply_to!r} and {self.grafting!r}; or pass multiplier=None"
            )

    def _check_objects(self) -> None:
        """Raise unless every setting that must be an object is one.

        Raises:
            TypeError: naming the setting, what it must be, the value and an example.
        """
        structure_or_function = isinstance(self.structure, AbstractStructure) or (
            # A class is callable too, but it is an instance that was forgotten.
            callable(self.structure) and not isinstance(self.structure, type)
        )
        dampings = (ConstantDamping, GradientNormDamping)
        rules = {
            "curvature": (isinstance(self.curvature, AbstractCurvature), "Hessian()"),
            "structure": (structure_or_function, "Diagonal() or a function of name and shape"),
            "inner_solver": (
                isinstance(self.inner_solver, solvers.AbstractInnerSolver),
                "ConjugateGradient()",
            ),
            "damping": (isinstance(self.damping, dampings), "ConstantDamping(value=0.0)"),
            "annealing": (
                self.annealing is None or isinstance(self.annealing, Annealing),
                "Annealing(total_steps=1000), or None",
            ),
            "multiplier": (
                self.multiplier is None or isinstance(self.multiplier, AdaptiveMultiplier),
                "AdaptiveMultiplier(), or None",
            ),
            "fold": (self.fold is None or callable(self.fold), "structures.fold_output_last"),
        }
        for name, (right, example) in rules.items():
            if not right:
                raise TypeError(
                    f"{name} must be an object such as {example}, got {getattr(self, name)!r}; "
                    "names and plain numbers go through llqr.config.configure"
                )
