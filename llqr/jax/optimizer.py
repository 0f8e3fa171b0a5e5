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
from llqr.jax.backend import JaxBackend
from llqr.jax.batches import batch_size, first_examples
from llqr.jax.linearise import LossFn, OutputsFn, WeightsFn, linearise
from llqr.jax.naming import Naming, has_masked, like_tree, unmask
from llqr.preconditioner import Preconditioner
from llqr.state import PreconditionerState
from llqr.structures import fold_output_last


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
        outputs_fn: (params, batch) ↦ outputs [batch, …], or (outputs, {name: intermediate}); use the
            inference-mode model (no dropout, running batch statistics).
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser).
        config: settings.
        weights_fn: batch ↦ weights (mask) of the events as in the loss, a dict by output name, or None.
        backend: array operations, None for the default ones.

    Returns:
        The transformation; its state is an :class:`LLQRState`.

    Raises:
        TypeError: if an argument is of the wrong kind.
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

        def run_base(direction: Any) -> tuple[Any, Any]:
            return self.base.update(direction, state.base, params, **extra_args)

        def fit(sources: dict[str, Tensors]) -> PreconditionerState:
            def fitted(old: PreconditionerState) -> PreconditionerState:
                return self._fit(
                    preconditioner, old, params, full_params, batch, sources.get("update")
                )

            due = finite & preconditioner.is_due(state.preconditioner)
            return lax.cond(due, fitted, lambda old: old, state.preconditioner)

        if self.config.apply_to == "gradient":
            sources = {"input": gradient, "gradient": gradient}
            steered, inner = preconditioner.precondition(fit(sources), sources)
            result, base = run_base(like_tree(steered, updates))
        else:
            result, base = run_base(updates)
            step = tensors.scale(-1.0, naming.flatten(result, "base update"))
            sources = {"input": step, "update": step, "gradient": gradient}
            steered, inner = preconditioner.precondition(fit(sources), sources)
            result = like_tree(tensors.scale(-1.0, steered), result)
        new = LLQRState(preconditioner.advance(inner), base, state.skipped)
        # Factors change in fits alone, which a gradient that is not finite has ruled out already.
        kept = state.preconditioner._replace(factors=inner.factors)
        old = LLQRState(kept, state.base, state.skipped + 1)
        zeros = jax.tree.map(jnp.zeros_like, result)
        return self.backend.select(finite, (result, new), (zeros, old))

    def _fit(
        self,
        preconditioner: Preconditioner,
        state: PreconditionerState,
        params: Any,
        full_params: Any,
        batch: Any,
        update: Tensors | None,
    ) -> PreconditionerState:
        """Linearise on the curvature batch and fit; the state keeps its dtypes."""
        config, outputs_fn = self.config, self.outputs_fn
        if full_params is not None:

            def outputs_fn(visible: Any, chunk: Any) -> Any:
                return self.outputs_fn(unmask(visible, full_params), chunk)

        problem = linearise(
            outputs_fn,
            self.loss_fn,
            params,
            first_examples(batch, config.curvature_batch_size),
            curvature=config.curvature,
            weights_fn=self.weights_fn,
            chunk_size=config.chunk_size,
            backend=self.backend,
        )
        model = quadratic_model(config.curvature, problem)
        sources = {"input": model.gradient, "gradient": model.gradient}
        if update is not None:
            sources |= {"input": update, "update": update}
        new = preconditioner.fit(state, model, sources)
        return jax.tree.map(lambda value, old: value.astype(old.dtype), new, state)


def make_preconditioner(
    naming: Naming, config: LLQRConfig, backend: JaxBackend | None = None
) -> Preconditioner:
    """Return the core's preconditioner for named parameters.

    Args:
        naming: the parameters.
        config: settings.
        backend: array operations, None for the default ones.

    Raises:
        ValueError: if a structure asks for the base update, which is not known before the base runs.
    """
    preconditioner = Preconditioner(
        backend or JaxBackend(), config, naming.shapes, fold_output_last
    )
    known = {"input", "gradient"} | ({"update"} if config.apply_to == "update" else set())
    unknown = sorted(preconditioner.sources - known)
    if unknown:
        raise ValueError(
            f"structures may act on {sorted(known)} with apply_to={config.apply_to!r}, got "
            f'{unknown}; set apply_to="update" to act on the base optimizer\'s update'
        )
    return preconditioner


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


def check_layout(
    state: PreconditionerState, preconditioner: Preconditioner, naming: Naming
) -> None:
    """Raise unless the factors of a state are those of the preconditioner.

    Raises:
        ValueError: naming the first block that differs.
    """
    advice = "use the configuration and parameters the state was made with, or call init(params)"
    expected = {
        block.name: block.structure.factor_shapes(block.block_shape)
        for block in preconditioner.blocks
    }
    layout = preconditioner.layout()
    for name in expected:
        if name not in state.factors:
            raise ValueError(
                f"state is of another configuration: it has no block {name!r} ({layout[name]}), but "
                f"{sorted(state.factors)}; {advice}"
            )
    for name, factors in state.factors.items():
        if name not in expected:
            raise ValueError(
                f"state is of another configuration: its block {name!r} is none of "
                f"{sorted(expected)}; {advice}"
            )
        shapes = {key: tuple(value.shape) for key, value in factors.items()}
        if shapes != expected[name]:
            raise ValueError(
                f"state is of another configuration: block {name!r} must have the factors "
                f"{expected[name]} ({layout[name]}), got {shapes}; {advice}"
            )
        for key, value in factors.items():
            if value.dtype != naming.factor_dtype:
                raise ValueError(
                    f"state has another dtype: factor {key!r} of block {name!r} must be "
                    f"{jnp.dtype(naming.factor_dtype)}, got {value.dtype}; restore it in the dtype it "
                    "was saved in"
                )
