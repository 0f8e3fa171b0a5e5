"""What surrounds an inner solve: the damping before; after it, is it used, how far, when is the next due."""

from __future__ import annotations

from collections.abc import Mapping

from llqr.backend import Array, Backend, Tensors
from llqr.damping import ConstantDamping, GradientNormDamping
from llqr.intervals import AdaptiveInterval, scheduled
from llqr.multiplier import Multiplier
from llqr.quadratic import QuadraticModel
from llqr.settings import LLQRConfig
from llqr.solvers import FactorProblem, SolverResult
from llqr.state import PreconditionerState


def damping(
    backend: Backend, config: LLQRConfig, model: QuadraticModel, state: PreconditionerState
) -> Array | float:
    """Return λ of the coming fit."""
    rule = config.damping
    if isinstance(rule, ConstantDamping):
        return float(rule.value)
    return rule.value(backend, model.gradient, state.smoothness)


def judged(
    config: LLQRConfig,
    problem: FactorProblem,
    result: SolverResult,
    used_damping: Array | float,
    state: PreconditionerState,
) -> tuple[Array, Array]:
    """Return whether the fit is taken into use, and the new γ.

    Raises:
        ValueError: if the damping's rule needs losses that the model cannot evaluate.
    """
    backend, rule = problem.backend, config.damping
    usable = backend.isfinite(result.objective) & backend.isfinite(result.objective_start)
    if not isinstance(rule, GradientNormDamping):
        return usable, state.smoothness
    evaluate = problem.model.loss_and_gradient
    if evaluate is None:
        raise ValueError(
            "damping by the gradient norm needs model.loss_and_gradient to accept or reject a "
            "fit, got None; supply it or use a constant damping"
        )
    step = problem.step(problem.inputs(), result.factors)
    new_loss, new_gradient = evaluate(step)
    better = rule.accepts(
        backend, used_damping, problem.model.initial_loss(), new_loss, new_gradient
    )
    accepted = usable & backend.isfinite(new_loss) & better
    return accepted, rule.adapted(backend, state.smoothness, accepted)


def interval(
    backend: Backend,
    config: LLQRConfig,
    model: QuadraticModel,
    state: PreconditionerState,
    result: SolverResult,
) -> tuple[Array, Array | None]:
    """Return the steps to the next fit, and whether the factors in use have become useless."""
    rule = config.update_interval
    if not isinstance(rule, AdaptiveInterval):
        return scheduled(backend, rule, state.step), None
    old, new = result.objective_start, result.objective
    # The factors before the first fit are the identity, which says nothing about the interval.
    known = backend.where(state.fits > 0, old, 0.0 * old)
    steps = rule.next(backend, state.interval, known, new, state.step, result.noise)
    if config.multiplier is not None:
        loss, ridge = model.initial_loss(), _adapted_ridge(config, state)
        lost = config.multiplier.loses(backend, state.multiplier, loss, ridge)
        steps = backend.where(lost, backend.integer(1, steps), steps)
    # Factors whose step would no longer lower the model are replaced, not averaged.
    return steps, ~(old < 0.0)


def multiplier(
    backend: Backend,
    config: LLQRConfig,
    model: QuadraticModel,
    state: PreconditionerState,
    sources: Mapping[str, Tensors],
    parameters: Tensors | None,
) -> Multiplier:
    """Return the factor on steps until the next fit.

    Args:
        backend: array operations.
        config: settings; without a rule nothing changes.
        model: of the batch whose gradient and loss judge the steps since the last fit.
        state: state before the fit.
        sources: ``"gradient"``, of training, is among them if the rule takes slopes.
        parameters: where the model is; used for slopes only.
    """
    rule = config.multiplier
    if rule is None:
        return state.multiplier
    gradient, place = {}, {}
    if rule.slopes and parameters is not None:
        gradient, place = sources["gradient"], parameters
    ridge = _adapted_ridge(config, state)
    return rule.following(backend, state.multiplier, gradient, place, model.initial_loss(), ridge)


def _adapted_ridge(config: LLQRConfig, state: PreconditionerState) -> Array | None:
    """Return the ridge with which the steps since the last fit were found, None if it does not adapt."""
    return state.ridge if config.inner_solver.judges_by_loss else None
