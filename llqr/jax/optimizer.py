"""LLQR as an optax transformation around any other.

    apply_to="gradient"    u = base(U g)
    apply_to="update"      u = U base(g)

The fit of U is a ``lax.cond`` inside ``update``, so a jitted training step compiles once and refreshes when
its step counter says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from llqr import tensors
from llqr.backend import Tensors
from llqr.config import LLQRConfig
from llqr.curvature import quadratic_model
from llqr.holdout import FitBatch
from llqr.jax.backend import JaxBackend
from llqr.jax.batches import batch_size, every_second, first_examples
from llqr.jax.convolutions import with_fast_convolutions
from llqr.jax.layout import check_layout, check_sources, make_preconditioner
from llqr.jax.linearise import JaxProblem, linearise
from llqr.jax.naming import Naming, has_masked, like_tree, unmask
from llqr.jax.objective import LossFn, OutputsFn, WeightsFn
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel
from llqr.state import PreconditionerState
from llqr.structures import AbstractStructure


class LLQRState(NamedTuple):
    """State of :func:`llqr`: a pytree of arrays only.

    Attributes:
        preconditioner: factors, counters and numbers of the last fit.
        base: the base optimizer's state.
        skipped: steps skipped because the gradient was not finite, 0-d int32.
    """

    preconditioner: PreconditionerState
    base: Any
    skipped: Array


def llqr(
    base_optimizer: optax.GradientTransformation,
    *,
    outputs_fn: OutputsFn,
    loss_fn: LossFn,
    config: LLQRConfig,
    weights_fn: WeightsFn | None = None,
    backend: JaxBackend | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Precondition a base optimizer with factors fitted on the network's curvature.

    ``update(grads, state, params, batch=batch)`` needs the parameters and the batch at every step; a step
    whose gradient is not finite changes neither parameters nor state and is counted in ``state.skipped``.
    Under ``optax.masked``, which hides parameters, also pass ``full_params=params``. Further keyword
    arguments reach the base optimizer.

    Args:
        base_optimizer: any optax transformation that ends in an update to add to the parameters.
        outputs_fn: (params, batch) ↦ outputs [batch, …], or (outputs, {name: intermediate}): the model as
            it is trained, statistics of the batch included, but without dropout.
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser).
        config: settings.
        weights_fn: batch ↦ weights (mask) of the events as in the loss, a dict by output name, or None.
        backend: array operations, None for the default ones.

    Returns:
        The transformation; its state is an :class:`LLQRState`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if a structure acts on the base update, which ``apply_to="gradient"`` does not have.
    """
    if not isinstance(config, LLQRConfig):
        raise TypeError(
            f"config must be an LLQRConfig, got {config!r}; build one with llqr.config.configure(...)"
        )
    if not (hasattr(base_optimizer, "init") and hasattr(base_optimizer, "update")):
        raise TypeError(
            f"base_optimizer must be an optax transformation, got {base_optimizer!r}; "
            "pass e.g. optax.adam(1e-3)"
        )
    for name, function in {"outputs_fn": outputs_fn, "loss_fn": loss_fn}.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function of two arguments, got {function!r}")
    if isinstance(config.structure, AbstractStructure):  # a function of names is asked at init
        check_sources(config.structure.sources, config)
    wrapper = _Wrapper(
        optax.with_extra_args_support(base_optimizer),
        outputs_fn,
        loss_fn,
        weights_fn,
        config,
        backend or JaxBackend(),
    )
    return optax.GradientTransformationExtraArgs(wrapper.init, wrapper.update)


@dataclasses.dataclass(frozen=True)
class _Wrapper:
    """The two functions of the transformation and what they share."""

    base: optax.GradientTransformationExtraArgs
    outputs_fn: OutputsFn
    loss_fn: LossFn
    weights_fn: WeightsFn | None
    config: LLQRConfig
    backend: JaxBackend

    def init(self, params: Any) -> LLQRState:
        """Return the state of U = I."""
        naming = Naming.of(params)
        preconditioner = make_preconditioner(naming, self.config, self.backend)
        state = preconditioner.init(naming.flatten(params, "params"))
        # Every leaf a buffer of its own: the core shares zeros, and a donated buffer may appear but once.
        state = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)
        return LLQRState(state, self.base.init(params), jnp.zeros((), jnp.int32))

    def update(
        self,
        updates: Any,
        state: LLQRState,
        params: Any = None,
        *,
        batch: Any = None,
        full_params: Any = None,
        **extra_args: Any,
    ) -> tuple[Any, LLQRState]:
        """Fit the factors if due, precondition, and run the base optimizer."""
        check_arguments(params, batch, full_params)
        naming = Naming.of(params)
        preconditioner = make_preconditioner(naming, self.config, self.backend)
        check_layout(state.preconditioner, preconditioner, naming)
        gradient = naming.flatten(updates, "updates")
        finite = tensors.all_finite(self.backend, gradient)
        values = naming.flatten(params, "params")

        def updated(steered: Tensors) -> tuple[dict[str, Tensors], Any, Any]:
            """Return what the base optimizer makes of a gradient: sources, its update and its state."""
            own = updates if steered is gradient else like_tree(steered, updates)
            result, base = self.base.update(own, state.base, params, **extra_args)
            step = tensors.scale(-1.0, naming.flatten(result, "base update"))
            return {"input": step, "update": step, "gradient": steered}, result, base

        def precondition(sources: dict[str, Tensors]) -> tuple[Tensors, PreconditionerState]:
            def fit(old: PreconditionerState) -> PreconditionerState:
                fit_batch = self._fit_batch(params, full_params, batch)
                model = quadratic_model(self.config.curvature, fit_batch.problem)
                seen = fit_batch.seen_gradient(model.gradient)
                if self.config.apply_to == "gradient":
                    # U is fitted to act on gradients of this batch.
                    own = _as_sources(model.gradient)
                    unseen = None if seen is None else _as_sources(seen)
                else:
                    own = sources
                    unseen = None
                    if seen is not None:
                        steered = fit_batch.partly_unseen(gradient, seen, model.gradient)
                        unseen = updated(steered)[0]
                return fitted(preconditioner, old, model, own, unseen, seen, values)

            due = finite & preconditioner.is_due(state.preconditioner)
            refresh = with_fast_convolutions(fit)
            fresh = lax.cond(due, refresh, lambda old: old, state.preconditioner)
            return preconditioner.precondition(fresh, sources)

        if self.config.apply_to == "gradient":
            steered, inner = precondition(_as_sources(gradient))
            steered = like_tree(steered, updates)
            result, base = self.base.update(steered, state.base, params, **extra_args)
        else:
            sources, result, base = updated(gradient)
            steered, inner = precondition(sources)
            result = like_tree(tensors.scale(-1.0, steered), result)
        new = LLQRState(preconditioner.advance(inner), base, state.skipped)
        # These change in fits alone, which a gradient that is not finite has ruled out already.
        kept = state.preconditioner._replace(factors=inner.factors, multiplier=inner.multiplier)
        old = LLQRState(kept, state.base, state.skipped + 1)
        zeros = jax.tree.map(jnp.zeros_like, result)
        return self.backend.select(finite, (result, new), (zeros, old))

    def _fit_batch(self, params: Any, full_params: Any, batch: Any) -> FitBatch:
        config = self.config

        def outputs_fn(visible: Any, chunk: Any) -> Any:
            whole = visible if full_params is None else unmask(visible, full_params)
            return self.outputs_fn(whole, chunk)

        def problem(examples: Any) -> JaxProblem:
            return linearise(
                outputs_fn,
                self.loss_fn,
                params,
                examples,
                curvature=config.curvature,
                weights_fn=self.weights_fn,
                chunk_size=config.chunk_size,
                backend=self.backend,
            )

        chosen = first_examples(batch, config.curvature_batch_size)
        if config.held_out is None:
            return FitBatch(problem(chosen))
        part = batch_size(chosen) / batch_size(batch)
        return FitBatch(problem(chosen), problem(every_second(chosen)), part * config.held_out)


def fitted(
    preconditioner: Preconditioner,
    state: PreconditionerState,
    model: QuadraticModel,
    sources: dict[str, Tensors],
    unseen: dict[str, Tensors] | None = None,
    seen_gradient: Tensors | None = None,
    parameters: Tensors | None = None,
) -> PreconditionerState:
    """Return the state after a fit, in the dtypes it had.

    Args:
        preconditioner: what is fitted.
        state: state before.
        model: quadratic model on the curvature batch.
        sources: what U is fitted on.
        unseen: the same had it not seen the whole batch, None for no judgement by it.
        seen_gradient: gradient of every second example, None for no estimate of the noise.
        parameters: where the model is; needed by a multiplier.
    """
    new = preconditioner.fit(state, model, sources, unseen, seen_gradient, parameters)
    return jax.tree.map(lambda value, old: value.astype(old.dtype), new, state)


def _as_sources(gradient: Tensors) -> dict[str, Tensors]:
    return {"input": gradient, "gradient": gradient}


def check_arguments(params: Any, batch: Any, full_params: Any) -> None:
    """Raise unless ``update`` has got what it needs.

    Raises:
        ValueError: naming the argument and the remedy.
    """
    for name, value in {"params": params, "batch": batch}.items():
        if value is None:
            raise ValueError(
                f"{name} must be given to update(), got None; call "
                "optimizer.update(grads, state, params, batch=batch) at every step"
            )
    batch_size(batch)
    if full_params is None and has_masked(params):
        raise ValueError(
            "full_params must be given where optax.masked hides parameters, got None; call "
            "optimizer.update(grads, state, params, batch=batch, full_params=params)"
        )
