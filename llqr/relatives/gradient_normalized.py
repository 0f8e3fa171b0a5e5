"""Newton steps damped by the gradient's norm: gradient-normalized smoothness.

    δ = −(C + λI)⁻¹ g,   λ = ‖g‖/γ

δ is taken, and γ doubled, if L(θ) − L(θ + δ) ≥ ‖∇L(θ + δ)‖²/(8λ); otherwise γ is halved and δ found
anew. C is the Hessian, or the Gauss-Newton matrix that stands in for it. γ estimates the radius of the ball
in which C predicts the change of the gradient; no Lipschitz constant and no learning rate is needed.

The linear system is solved by conjugate gradient. Where C + λI is not positive definite along a search
direction, γ is halved as well.

Source: Semenov, Jaggi and Doikov, "Gradient-Normalized Smoothness for Optimization with Approximate Hessians"
(arXiv 2506.13710), algorithm 1, for deterministic losses. Cost of a trial: up to ``solver_steps`` curvature
products, one loss and one gradient. Memory: five vectors of the size of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from llqr import tensors
from llqr._checks import check_fraction, check_positive_int
from llqr.backend import Array, Backend, Tensors
from llqr.damping import GradientNormDamping
from llqr.quadratic import QuadraticModel


class _Solve(NamedTuple):
    """State of conjugate gradient on (C + λI) δ = −g; r is what is left of the right-hand side."""

    step: Array
    solution: Tensors  # δ
    rest: Tensors  # r
    direction: Tensors  # p
    square: Array  # ⟨r, r⟩
    definite: Array


class _Trial(NamedTuple):
    """State of the search for γ."""

    smoothness: Array  # γ
    step: Tensors  # δ
    trials: Array
    products: Array
    accepted: Array


@dataclass(frozen=True, kw_only=True)
class GradientNormalizedNewton:
    """Newton's method with λ = ‖g‖/γ and an adaptive γ.

    Attributes:
        damping: bounds and start of γ.
        solver_steps: most steps of conjugate gradient per trial, ≥ 1.
        tolerance: relative residual at which it stops, in [0, 1).
        trials: most values of γ per step, ≥ 1; if none is accepted, no step is taken.
    """

    damping: GradientNormDamping = field(default_factory=GradientNormDamping)
    solver_steps: int = 100
    tolerance: float = 1e-6
    trials: int = 40

    def __post_init__(self) -> None:
        """Validate the settings."""
        check_positive_int("solver_steps", self.solver_steps)
        check_positive_int("trials", self.trials)
        check_fraction("tolerance", self.tolerance, 1e-6)
        if not isinstance(self.damping, GradientNormDamping):
            raise TypeError(
                f"damping must be a GradientNormDamping, got {self.damping!r}; pass "
                "GradientNormDamping(initial=1.0)"
            )

    def init(self, backend: Backend, like: Array) -> dict[str, Any]:
        """Return γ₀ and counters, in the dtype of ``like``."""
        zero = backend.integer(0, like)
        return {
            "smoothness": backend.asarray(self.damping.initial, like),
            "step": zero,
            "trials": zero,
            "products": zero,
            "rejected": zero,
        }

    def update(
        self, backend: Backend, state: dict[str, Any], model: QuadraticModel
    ) -> tuple[Tensors, dict[str, Any]]:
        """Return the step to add to the parameters, and the new state.

        Args:
            backend: array operations.
            state: as :meth:`init` or the last call returned it. ``rejected`` counts calls in which no γ was
                accepted.
            model: m around the parameters, without damping, with ``loss_and_gradient``.

        Returns:
            δ (zero if no γ was accepted), and the state.

        Raises:
            ValueError: if the model has no ``loss_and_gradient``.
        """
        evaluate = model.loss_and_gradient
        if evaluate is None:
            raise ValueError(
                "model.loss_and_gradient must be given, got None; it decides whether a step is accepted"
            )
        nothing = tensors.scale(0.0, model.gradient)
        loss, _ = evaluate(nothing)
        zero = backend.integer(0, loss)
        final = backend.while_loop(
            lambda trial: (trial.accepted == 0) & (trial.trials < self.trials),
            lambda trial: self._try(backend, model, loss, trial),
            _Trial(state["smoothness"], nothing, zero, zero, zero),
        )
        taken = final.accepted > 0
        step = tensors.map_tensors(
            lambda value, none: backend.where(taken, value, none), final.step, nothing
        )
        return step, {
            "smoothness": final.smoothness,
            "step": state["step"] + 1,
            "trials": state["trials"] + final.trials,
            "products": state["products"] + final.products,
            "rejected": state["rejected"] + 1 - final.accepted,
        }

    def _try(self, backend: Backend, model: QuadraticModel, loss: Array, trial: _Trial) -> _Trial:
        """Find δ for the present γ, and move γ by whether δ is accepted."""
        assert model.loss_and_gradient is not None
        damping = self.damping.value(backend, model.gradient, trial.smoothness)
        solved = self.solve(backend, model.with_damping(damping))
        new_loss, new_gradient = model.loss_and_gradient(solved.solution)
        better = self.damping.accepts(backend, damping, loss, new_loss, new_gradient)
        accepted = better & solved.definite & backend.isfinite(new_loss)
        one, zero = backend.integer(1, trial.trials), backend.integer(0, trial.trials)
        return _Trial(
            smoothness=self.damping.adapted(backend, trial.smoothness, accepted),
            step=solved.solution,
            trials=trial.trials + 1,
            products=trial.products + solved.step,
            accepted=backend.where(accepted, one, zero),
        )

    def solve(self, backend: Backend, model: QuadraticModel) -> _Solve:
        """Return the solution of (C + λI) δ = −g; ``definite`` says whether no direction refuted it."""
        right = tensors.scale(-1.0, model.gradient)
        square = tensors.dot(right, right)
        target = float(self.tolerance) ** 2 * square

        def advance(state: _Solve) -> _Solve:
            product = model.product(state.direction)
            curvature = tensors.dot(state.direction, product)
            definite = curvature > 0.0
            # Without positive curvature the length is meaningless, and the trial is rejected anyway.
            length = state.square / backend.where(definite, curvature, 1.0 + 0.0 * curvature)
            rest = tensors.add_scaled(state.rest, -length, product)
            left = tensors.dot(rest, rest)
            return _Solve(
                step=state.step + 1,
                solution=tensors.add_scaled(state.solution, length, state.direction),
                rest=rest,
                direction=tensors.add_scaled(rest, left / state.square, state.direction),
                square=left,
                definite=definite,
            )

        return backend.while_loop(
            lambda state: (
                state.definite & (state.step < self.solver_steps) & (state.square > target)
            ),
            advance,
            _Solve(
                step=backend.integer(0, square),
                solution=tensors.scale(0.0, right),
                rest=right,
                direction=right,
                square=square,
                definite=square >= 0.0,
            ),
        )
