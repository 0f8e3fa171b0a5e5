"""The preconditioner: when factors are fitted, how fits are averaged, and how they are applied.

It is pure: settings and shapes are fixed at construction, everything that changes is in
:class:`PreconditionerState`, and every method returns a new state. The shells in :mod:`llqr.torch` and
:mod:`llqr.jax` decide where gradients, updates and linearised batches come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llqr import tensors
from llqr.backend import Array, Backend, Tensors
from llqr.config import LLQRConfig
from llqr.damping import ConstantDamping, GradientNormDamping
from llqr.quadratic import QuadraticModel
from llqr.solvers.base import FactorProblem, SolverResult, map_factors
from llqr.structures.base import Shape
from llqr.structures.blocks import Block, BlockFactors, Fold, fold_output_last, make_blocks, report


class FitReport(NamedTuple):
    """Numbers of the last fit, 0-d arrays.

    Attributes:
        status: a :class:`llqr.solvers.Status`; 0 before the first fit.
        objective_start: m at the factors the fit started from.
        objective: m at the factors it returned.
        steps: inner steps.
        products: curvature-vector products spent.
        rises: inner steps at which the objective rose.
        damping: λ.
        accepted: 1 if the fitted factors were taken into use.
    """

    status: Array
    objective_start: Array
    objective: Array
    steps: Array
    products: Array
    rises: Array
    damping: Array
    accepted: Array


class PreconditionerState(NamedTuple):
    """Everything that changes.

    Attributes:
        factors: averaged factors in use, by block name.
        step: calls of :meth:`Preconditioner.advance`.
        next_fit: step at which the next fit is due.
        fits: fits taken into use.
        rejected: fits thrown away (non-finite, or refused by the damping's acceptance rule).
        fallbacks: blocks whose preconditioned value was not finite and was replaced by their input.
        smoothness: γ of gradient-normalized damping.
        last_fit: numbers of the last fit.
    """

    factors: BlockFactors
    step: Array
    next_fit: Array
    fits: Array
    rejected: Array
    fallbacks: Array
    smoothness: Array
    last_fit: FitReport


class Preconditioner:
    """Fits U on quadratic models and applies it.

    Args:
        backend: array operations of the framework.
        config: settings.
        shapes: trainable parameter name ↦ shape.
        fold: where weights of three or more axes fold, if the config does not say.

    Raises:
        ValueError: if the solver cannot serve the structures, or there are no parameters.
    """

    def __init__(
        self,
        backend: Backend,
        config: LLQRConfig,
        shapes: Mapping[str, Shape],
        fold: Fold = fold_output_last,
    ) -> None:
        self.backend = backend
        self.config = config
        self.blocks: tuple[Block, ...] = make_blocks(shapes, config.structure, config.fold or fold)
        config.inner_solver.check(self.blocks)

    @property
    def sources(self) -> frozenset[str]:
        """Names of the vectors the structures act on; the caller supplies each."""
        return frozenset(name for block in self.blocks for name in block.sources)

    def identity(self, like: Tensors) -> BlockFactors:
        """Return the factors of U = I, each in the dtype and on the device of its parameter."""
        return {
            block.name: block.structure.init(
                self.backend, block.block_shape, like[block.parameters[0]]
            )
            for block in self.blocks
        }

    def init(self, like: Tensors) -> PreconditionerState:
        """Return the initial state.

        Args:
            like: one array per parameter in the dtype factors shall have (float32 or float64).
        """
        one = next(iter(like.values()))
        zero, number = self.backend.integer(0, one), self.backend.asarray(0.0, one)
        gamma = getattr(self.config.damping, "initial", 1.0)
        return PreconditionerState(
            factors=self.identity(like),
            step=zero,
            next_fit=zero,
            fits=zero,
            rejected=zero,
            fallbacks=zero,
            smoothness=self.backend.asarray(gamma, one),
            last_fit=FitReport(zero, number, number, zero, zero, zero, number, zero),
        )

    def is_due(self, state: PreconditionerState) -> Array:
        """Return a 0-d boolean: shall the factors be fitted at this step."""
        return state.step >= state.next_fit

    def fit(
        self, state: PreconditionerState, model: QuadraticModel, sources: Mapping[str, Tensors]
    ) -> PreconditionerState:
        """Fit the factors on one quadratic model and average them into use.

        Args:
            state: current state.
            model: m around the current parameters on the curvature batch, without damping.
            sources: source name ↦ vectors the structures act on (``"input"`` and those of spans).

        Returns:
            The new state. Factors stay finite: a fit that fails leaves them as they were.
        """
        backend, config = self.backend, self.config
        like = model.gradient
        damping = self._damping(model, state)
        damped = model.with_damping(damping)
        start = state.factors if config.warm_start else self.identity(like)
        problem = FactorProblem(backend, damped, self.blocks, sources)
        result = config.inner_solver.solve(problem, start)
        usable = backend.isfinite(result.objective) & backend.isfinite(result.objective_start)
        accepted, smoothness = self._judge(problem, result, damping, state, usable)
        factors = self._average(state, result.factors)
        one = backend.integer(1, state.step)
        zero = backend.integer(0, state.step)
        taken = backend.where(accepted, one, zero)
        return state._replace(
            factors=backend.select(accepted, factors, state.factors),
            next_fit=state.step + backend.where(accepted, self._interval(state), one),
            fits=state.fits + taken,
            rejected=state.rejected + (1 - taken),
            smoothness=smoothness,
            last_fit=FitReport(
                result.status,
                result.objective_start,
                result.objective,
                result.steps,
                result.products,
                result.rises,
                damping,
                taken,
            ),
        )

    def precondition(
        self, state: PreconditionerState, sources: Mapping[str, Tensors]
    ) -> tuple[Tensors, PreconditionerState]:
        """Return U x for every parameter; a block whose U x is not finite returns its input.

        Args:
            state: current state.
            sources: source name ↦ vectors, ``"input"`` among them.
        """
        backend = self.backend
        one, zero = backend.integer(1, state.step), backend.integer(0, state.step)
        result: Tensors = {}
        fallbacks = state.fallbacks
        for block in self.blocks:
            value = block.structure.apply(
                backend, state.factors[block.name], block.gather(backend, sources)
            )
            finite = backend.isfinite(value)
            plain = block.join(backend, sources["input"])
            result.update(block.split(backend.where(finite, value, plain)))
            fallbacks = fallbacks + backend.where(finite, zero, one)
        if self.config.grafting == "norm":
            result = tensors.map_tensors(self._graft, result, sources["input"])
        return result, state._replace(fallbacks=fallbacks)

    def advance(self, state: PreconditionerState) -> PreconditionerState:
        """Return the state with the step counter moved on."""
        return state._replace(step=state.step + 1)

    def report(self) -> str:
        """Return a table of what each parameter gets and the memory its factors take."""
        return report(self.blocks)

    def layout(self) -> dict[str, str]:
        """Return a description of every block, to recognise a state of another configuration."""
        return {
            block.name: f"{block.structure.describe(block.block_shape)} "
            f"{block.structure.factor_shapes(block.block_shape)} of {', '.join(block.parameters)}"
            for block in self.blocks
        }

    def _graft(self, value: Array, plain: Array) -> Array:
        """Return ``value`` rescaled to the norm of ``plain`` (unchanged where it vanishes)."""
        norm = self.backend.sqrt((value * value).sum())
        target = self.backend.sqrt((plain * plain).sum())
        positive = norm > 0.0
        safe = self.backend.where(positive, norm, self.backend.ones((), norm))
        return value * self.backend.where(positive, target / safe, self.backend.ones((), norm))

    def _damping(self, model: QuadraticModel, state: PreconditionerState) -> Array:
        damping = self.config.damping
        if isinstance(damping, ConstantDamping):
            return self.backend.asarray(damping.value, state.smoothness)
        return damping.value(self.backend, model.gradient, state.smoothness)

    def _judge(
        self,
        problem: FactorProblem,
        result: SolverResult,
        damping: Array,
        state: PreconditionerState,
        usable: Array,
    ) -> tuple[Array, Array]:
        """Return whether the fit is taken into use, and the new γ."""
        rule = self.config.damping
        if not isinstance(rule, GradientNormDamping):
            return usable, state.smoothness
        evaluate = problem.model.loss_and_gradient
        if evaluate is None:
            raise ValueError(
                "damping by the gradient norm needs model.loss_and_gradient to accept or reject a "
                "fit, got None; supply it or use a constant damping"
            )
        step = problem.step(problem.inputs(), result.factors)
        loss, _ = evaluate(tensors.scale(0.0, step))
        new_loss, new_gradient = evaluate(step)
        better = rule.accepts(self.backend, damping, loss, new_loss, new_gradient)
        accepted = usable & better
        return accepted, rule.adapted(self.backend, state.smoothness, accepted)

    def _average(self, state: PreconditionerState, fitted: BlockFactors) -> BlockFactors:
        """Return U ← β U + (1 − β) U_new, de-biased if configured (the first fit then counts in full)."""
        decay = self.config.ema_decay
        beta = decay(state.fits) if callable(decay) else decay
        if self.config.ema_debias:
            power = self.backend.asarray(1.0, state.smoothness) * beta ** (state.fits + 1)
            weight = (1.0 - beta) / (1.0 - power)
        else:
            weight = 1.0 - beta
        return map_factors(
            lambda old, new: (
                old + self.backend.asarray(weight, old) * (new - old)
                if isinstance(weight, float)
                else old + weight * (new - old)
            ),
            state.factors,
            fitted,
        )

    def _interval(self, state: PreconditionerState) -> Array:
        interval = self.config.update_interval
        value = interval(state.step) if callable(interval) else interval
        return self.backend.integer(value, state.step)
