"""The preconditioner: when factors are fitted, how fits are averaged, and how they are applied.

It is pure: settings and shapes are fixed at construction, everything that changes is in
:class:`llqr.state.PreconditionerState`, and every method returns a new state. The shells in
:mod:`llqr.torch` and :mod:`llqr.jax` decide where gradients, updates and linearised batches come from.
"""

from __future__ import annotations

from collections.abc import Mapping

from llqr import fitting
from llqr._checks import check_arrays
from llqr.annealing import Annealing
from llqr.averaging import average
from llqr.backend import Array, Backend, Tensors
from llqr.damping import GradientNormDamping
from llqr.lengths import Lengths, length_factor, unmeasured, with_another
from llqr.multiplier import initial, keeps_parameters
from llqr.pace import Pace, clip_factor, no_pace
from llqr.quadratic import QuadraticModel
from llqr.reach import reaches, shortened, unbounded
from llqr.safeguards import finite_or, grafted
from llqr.settings import LLQRConfig
from llqr.solvers import FactorProblem, SolverResult, Status
from llqr.solvers.base import describe
from llqr.state import FitReport, PreconditionerState
from llqr.structures.base import Shape
from llqr.structures.blocks import Block, BlockFactors, Fold, fold_output_last, make_blocks, report

__all__ = ["FitReport", "Preconditioner", "PreconditionerState"]


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
        self.shapes: dict[str, Shape] = {name: tuple(shape) for name, shape in shapes.items()}
        self._owners = {name: i for i, block in enumerate(self.blocks) for name in block.parameters}
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
            like: the parameters by name, in the dtype factors shall have (float32 or float64). A multiplier
                that takes slopes keeps them, else any arrays of that dtype will do.
        """
        one = next(iter(like.values()))
        zero, number = self.backend.integer(0, one), self.backend.asarray(0.0, one)
        rule = self.config.damping
        gamma = rule.initial if isinstance(rule, GradientNormDamping) else 1.0
        return PreconditionerState(
            factors=self.identity(like),
            step=zero,
            next_fit=zero,
            fits=zero,
            rejected=zero,
            fallbacks=zero,
            interval=zero + 1,
            smoothness=self.backend.asarray(gamma, one),
            ridge=self.backend.asarray(self.config.inner_solver.initial_ridge, one),
            lengths=unmeasured(self.backend, self._names, number),
            pace=no_pace(self.backend, number),
            multiplier=initial(self.backend, self._anchored(like), number),
            reach={block.name: unbounded(self.backend, number) for block in self.blocks},
            last_fit=FitReport(
                status=zero,
                objective_start=number,
                objective=number,
                steps=zero,
                products=zero,
                rises=zero,
                damping=number,
                accepted=zero,
                bad_block=zero - 1,
            ),
        )

    def is_due(self, state: PreconditionerState) -> Array:
        """Return a 0-d boolean: shall the factors be fitted at this step."""
        return state.step >= state.next_fit

    def fit(
        self,
        state: PreconditionerState,
        model: QuadraticModel,
        sources: Mapping[str, Tensors],
        partly_unseen: Mapping[str, Tensors] | None = None,
        half_gradient: Tensors | None = None,
        parameters: Tensors | None = None,
    ) -> PreconditionerState:
        """Fit the factors on one quadratic model and average them into use.

        A fit that is not taken into use is tried again at the next step.

        Args:
            state: current state.
            model: m around the current parameters on the curvature batch, without damping.
            sources: source name ↦ vectors the structures act on (``"input"`` and those of spans).
            partly_unseen: the same vectors had they not seen all of the model's batch
                (:mod:`llqr.holdout`), None for no judgement by them.
            half_gradient: gradient of every second example of the model's batch, None for no estimate of
                the noise in the model's gradient (:mod:`llqr.ridge`).
            parameters: where the model is, by name; needed by a multiplier that takes slopes
                (:mod:`llqr.multiplier`).

        Returns:
            The new state. Factors stay finite: a fit that fails leaves them as they were.

        Raises:
            ValueError: if a source, a parameter of the model or its shape is not as expected.
        """
        backend, config = self.backend, self.config
        check_arrays("model.gradient", model.gradient, self.shapes)
        needed = set() if config.annealing is None else {"input"}
        if keeps_parameters(config.multiplier):
            if parameters is None:
                raise ValueError(
                    "parameters must be given to a fit with a multiplier that takes slopes, got None; pass "
                    "where the model is"
                )
            needed.add("gradient")
            check_arrays("parameters", parameters, self.shapes)
        self._check_sources(sources, self.sources | needed)
        if partly_unseen is not None:
            self._check_sources(partly_unseen, self.sources)
        if half_gradient is not None:
            check_arrays("half_gradient", half_gradient, self.shapes)
        damping = fitting.damping(backend, config, model, state)
        start = state.factors if config.warm_start else self.identity(model.gradient)
        damped = model.with_damping(damping)
        problem = FactorProblem(
            backend, damped, self.blocks, sources, state.ridge, partly_unseen, half_gradient
        )
        result = config.inner_solver.solve(problem, start)
        accepted, smoothness = fitting.judged(config, problem, result, damping, state)
        one, zero = backend.integer(1, state.step), backend.integer(0, state.step)
        taken = backend.where(accepted, one, zero)
        steps, useless = fitting.interval(backend, config, model, state, result)
        next_fit = state.step + backend.where(accepted, steps, one)
        lengths = self._measured(state, damped, sources, result, next_fit)
        if config.annealing is not None:
            next_fit = config.annealing.next_fit(backend, next_fit)
        averaged = average(backend, config, state, result.factors, replace=useless)
        factors = backend.select(accepted, averaged, state.factors)
        return state._replace(
            factors=factors,
            reach=self._reach(state, factors, sources),
            next_fit=next_fit,
            fits=state.fits + taken,
            rejected=state.rejected + (1 - taken),
            interval=backend.where(accepted, steps, one),
            smoothness=smoothness,
            ridge=state.ridge if result.ridge is None else result.ridge,
            lengths=lengths,
            multiplier=fitting.multiplier(backend, config, model, state, sources, parameters),
            last_fit=FitReport(
                status=result.status,
                objective_start=result.objective_start,
                objective=result.objective,
                steps=result.steps,
                products=result.products,
                rises=result.rises,
                damping=self.backend.asarray(damping, state.smoothness),
                accepted=taken,
                bad_block=result.bad_block,
            ),
        )

    def precondition(
        self, state: PreconditionerState, sources: Mapping[str, Tensors]
    ) -> tuple[Tensors, PreconditionerState]:
        """Return U x for every parameter, or, once annealing has begun, multiples of x.

        U x is no longer than ``config.growth`` or the annealing allows. Before that begins, a block whose U x
        is not finite returns its input.

        Args:
            state: current state.
            sources: source name ↦ vectors, ``"input"`` among them.

        Raises:
            ValueError: if a source, a parameter of it or its shape is not as expected.
        """
        backend, rule = self.backend, self.config.annealing
        self._check_sources(sources, self.sources | {"input"})
        if rule is None:
            return self._guarded(state, sources)

        def annealed(before: PreconditionerState) -> tuple[Tensors, PreconditionerState]:
            moved, pace = self._annealed(rule, before, sources["input"])
            return moved, before._replace(pace=pace)

        begun = state.step >= rule.start
        return backend.cond(begun, annealed, lambda before: self._guarded(before, sources), state)

    def advance(self, state: PreconditionerState) -> PreconditionerState:
        """Return the state with the step counter moved on."""
        return state._replace(step=state.step + 1)

    def report(self) -> str:
        """Return a table of what each parameter gets and the memory its factors take."""
        return report(self.blocks)

    def describe_fit(self, fit: FitReport) -> str:
        """Return what happened in a fit and in which block, as text; only outside of compiled code."""
        bad = int(fit.bad_block)
        return describe(
            Status(int(fit.status)),
            [self.blocks[bad].name] if bad >= 0 else [],
            objectives=(float(fit.objective_start), float(fit.objective)),
            counts=(int(fit.steps), int(fit.products), int(fit.rises)),
        )

    def layout(self) -> dict[str, str]:
        """Return a description of every block, to recognise a state of another configuration."""
        return {
            block.name: f"{block.structure.describe(block.block_shape)} "
            f"{block.structure.factor_shapes(block.block_shape)} of {', '.join(block.parameters)}"
            for block in self.blocks
        }

    def _check_sources(self, sources: Mapping[str, Tensors], needed: frozenset[str]) -> None:
        for name in sorted(needed):
            if name not in sources:
                raise ValueError(
                    f"sources must hold {sorted(needed)}, got {sorted(sources)}; supply {name!r} or "
                    "name other directions in Span"
                )
            check_arrays(f"sources[{name!r}]", sources[name], self.shapes)

    def _guarded(
        self, state: PreconditionerState, sources: Mapping[str, Tensors]
    ) -> tuple[Tensors, PreconditionerState]:
        """Return U x with its safeguards, and the state with fallbacks counted."""
        backend = self.backend
        plain = [block.join(backend, sources["input"]) for block in self.blocks]
        values, bad = finite_or(backend, self._applied(state.factors, sources), plain)
        factor = None if self.config.multiplier is None else state.multiplier.value
        if self.config.growth is not None:
            reach = self._in_order(state.reach)
            values = shortened(backend, values, reach, self.config.growth, factor)
        elif factor is not None:
            values = [factor * value for value in values]
        result: Tensors = {}
        for block, value in zip(self.blocks, values, strict=True):
            result.update(block.split(value))
        if self.config.grafting == "norm":
            result = grafted(backend, result, sources["input"])
        return {name: result[name] for name in self.shapes}, state._replace(
            fallbacks=state.fallbacks + bad
        )

    def _applied(self, factors: BlockFactors, sources: Mapping[str, Tensors]) -> list[Array]:
        """Return U x, one array per block."""
        backend = self.backend
        return [
            block.structure.apply(backend, factors[block.name], block.gather(backend, sources))
            for block in self.blocks
        ]

    @property
    def _names(self) -> list[str]:
        return [block.name for block in self.blocks]

    def _in_order(self, by_block: Mapping[str, Array]) -> list[Array]:
        return [by_block[block.name] for block in self.blocks]

    def _anchored(self, parameters: Tensors) -> Tensors:
        """Return what a multiplier keeps of the parameters."""
        if not keeps_parameters(self.config.multiplier):
            return {}
        return {name: parameters[name] for name in self.shapes}

    def _reach(
        self, state: PreconditionerState, factors: BlockFactors, sources: Mapping[str, Tensors]
    ) -> dict[str, Array]:
        """Return how far the factors in use go on the vectors of this fit."""
        if self.config.growth is None:
            return state.reach
        found = reaches(self.backend, self._applied(factors, sources))
        return {block.name: value for block, value in zip(self.blocks, found, strict=True)}

    def _annealed(
        self, rule: Annealing, state: PreconditionerState, plain: Tensors
    ) -> tuple[Tensors, Pace]:
        """Return η c_g η_t x, at the pace of the steps before, for every parameter of every block g.

        η is a multiplier's, 1 without one.
        """
        backend, common = self.backend, state.lengths.common
        by_block = state.lengths.of(backend, self._names)
        # Views of it, since an index array would be copied to the device at every step.
        lengths = backend.stack([by_block[self._owners[name]] for name in self.shapes])
        norms = backend.asarray(backend.norms([plain[name] for name in self.shapes]), common)
        length = backend.norms([lengths * norms])[0]
        clip, pace = clip_factor(backend, state.pace, length, rule.growth, rule.memory)
        share = clip * rule.share(backend.asarray(state.step, common), backend.maximum)
        if self.config.multiplier is not None:
            share = share * state.multiplier.value
        values = backend.scaled([plain[name] for name in self.shapes], share * lengths)
        return dict(zip(self.shapes, values, strict=True)), pace

    def _measured(
        self,
        state: PreconditionerState,
        model: QuadraticModel,
        sources: Mapping[str, Tensors],
        result: SolverResult,
        next_fit: Array,
    ) -> Lengths:
        """Return the lengths of an annealing with those of this fit, which serves until the next."""
        rule, backend = self.config.annealing, self.backend
        if rule is None:
            return state.lengths
        until = backend.integer(rule.measured_until, state.step)

        def measured(before: Lengths) -> Lengths:
            along = (result.along or {}).get(self.config.apply_to)
            if along is None:
                along = model.along(sources["input"])
            plain = [block.join(backend, sources["input"]) for block in self.blocks]
            norms = backend.norms(self._applied(result.factors, sources)), backend.norms(plain)
            factor = length_factor(
                backend, result.noise, result.ridge, rule.noise_weight, before.common
            )
            served = backend.where(next_fit < until, next_fit, until) - state.step
            return with_another(backend, before, along, factor, self._names, norms, served)

        return backend.cond(state.step < until, measured, lambda before: before, state.lengths)
