"""One training step in JAX around any optax transformation, and a submission made of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from llqr.algoperf.jax_running_statistics import brought_to_present, training_pass
from llqr.algoperf.submission import Submission
from submissions.baselines.wiring.common import (
    label_smoothing,
    model_options,
    warmup_steps,
)
from workloads_extra.spec import ForwardPassMode

Make = Callable[[Any, Any, Any], optax.GradientTransformation]
"""(hyperparameters, schedule, workload) ↦ transformation; schedule is warm-up and cosine to the peak
``hyperparameters.learning_rate``."""


class JaxBaseline(Submission):
    """AlgoPerf's submission functions.

    Args:
        make: makes the transformation.
        evaluated: (optimizer state, parameters) ↦ parameters to evaluate, for methods that train at one
            point and evaluate at another.
        needs_objective: whether the transformation wants the loss as ``obj_fn(params)``.
        present_statistics: whether normalisations are evaluated with statistics of the parameters that are
            evaluated (:mod:`llqr.algoperf.running_statistics`), not of those trained in the past.
    """

    def __init__(
        self,
        make: Make,
        evaluated: Callable[[Any, Any], Any] | None = None,
        needs_objective: bool = False,
        present_statistics: bool = False,
    ):
        self._make = make
        self._evaluated = evaluated
        self._needs_objective = needs_objective
        self._present_statistics = present_statistics
        self._last_batch: dict[str, Any] | None = None

    def init_optimizer_state(
        self, workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
    ) -> tuple[Any, ...]:
        """Return state, compiled step and, if something else is evaluated, what training goes on with."""
        self._last_batch = None
        optimizer = optax.with_extra_args_support(
            self._make(hyperparameters, schedule(workload, hyperparameters), workload)
        )
        step = self._compiled(workload, optimizer, hyperparameters)
        held = {}
        if self._evaluated is not None:
            held["params"] = jax.tree.map(jnp.copy, model_params)
        if self._present_statistics:
            held["model_state"] = model_state
        # Some states hold the very arrays of the parameters, and neither may be given away twice.
        state = jax.tree.map(jnp.copy, optimizer.init(model_params))
        # Where parameters and their successors are, or the step would be compiled for the first state alone.
        place = jax.tree.leaves(model_params)[0].sharding
        return jax.device_put(state, place), step, *([held] if held else [])

    def _compiled(self, workload: Any, optimizer: Any, hyperparameters: Any) -> Callable[..., Any]:
        """Return one step as a compiled function that gives the memory of its inputs to its outputs."""
        loss_fn = functools.partial(_mean_loss, workload, hyperparameters)

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, model_state: Any, batch: Any, rng: Any) -> Any:
            gradient, new_state = jax.grad(loss_fn, has_aux=True)(params, model_state, batch, rng)
            extra = {}
            if self._needs_objective:
                extra["obj_fn"] = lambda values: loss_fn(values, model_state, batch, rng)[0]
            updates, state = optimizer.update(gradient, state, params, **extra)
            return optax.apply_updates(params, updates), state, new_state

        return step

    def update_params(
        self,
        workload: Any,
        current_param_container: Any,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        batch: dict[str, Any],
        loss_type: Any,
        optimizer_state: tuple[Any, ...],
        eval_results: list[Any],
        global_step: int,
        rng: Any,
        train_state: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Do one step."""
        state, step, *rest = optimizer_state
        held = rest[0] if rest else {}
        trained = {"params": current_param_container, "model_state": model_state} | held
        params, state, model_state = step(
            trained["params"], state, trained["model_state"], batch, rng
        )
        self._last_batch = batch if self._present_statistics else None
        trained = {"params": params, "model_state": model_state}
        kept = {name: trained[name] for name in held}
        return (state, step, *([kept] if kept else [])), params, model_state

    def prepare_for_eval(
        self,
        workload: Any,
        current_param_container: Any,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        loss_type: Any,
        optimizer_state: tuple[Any, ...],
        eval_results: list[Any],
        global_step: int,
        rng: Any,
    ) -> tuple[Any, Any, Any]:
        """Return the parameters to evaluate."""
        params = current_param_container
        if self._evaluated is not None:
            state, _, held = optimizer_state
            params = self._evaluated(state, held["params"])
        if self._last_batch is not None and jax.tree.leaves(model_state):
            running = optimizer_state[2]["model_state"]
            model_state = _at_present(workload, params, running, self._last_batch)
        return optimizer_state, params, model_state


@functools.partial(jax.jit, static_argnums=0)
def _at_present(workload: Any, params: Any, model_state: Any, batch: dict[str, Any]) -> Any:
    """Return the model state with the statistics of these parameters."""
    return brought_to_present(model_state, training_pass(workload, params), batch)


def schedule(workload: Any, hyperparameters: Any) -> optax.Schedule:
    """Return linear warm-up and cosine decay to zero at the workload's step hint."""
    warmup = warmup_steps(workload, hyperparameters)
    return optax.warmup_cosine_decay_schedule(
        0.0, hyperparameters.learning_rate, warmup, max(workload.step_hint, warmup + 1)
    )


def _mean_loss(
    workload: Any, hyperparameters: Any, params: Any, model_state: Any, batch: Any, rng: Any
) -> tuple[jax.Array, Any]:
    """Return the mean training loss and the new model state."""
    outputs, new_model_state = workload.model_fn(
        params,
        batch,
        model_state,
        ForwardPassMode.TRAIN,
        rng,
        update_batch_norm=True,
        **model_options(hyperparameters),
    )
    loss = workload.loss_fn(
        batch["targets"], outputs, batch.get("weights"), label_smoothing(hyperparameters)
    )
    return loss["summed"] / loss["n_valid_examples"], new_model_state
