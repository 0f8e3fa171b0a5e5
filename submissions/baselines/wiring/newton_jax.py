"""One training step of gradient-normalized Newton in JAX, and a submission made of it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from llqr.algoperf.curvature_batches import BATCH
from llqr.algoperf.jax_curvature import JaxObjective
from llqr.curvature import AbstractCurvature
from llqr.jax.relatives import gradient_normalized_newton
from llqr.relatives import GradientNormalizedNewton
from submissions.baselines.wiring.common import label_smoothing, model_options
from submissions.baselines.wiring.jax import JaxBaseline
from workloads_extra.spec import ForwardPassMode

Settings = Callable[[Any], tuple[AbstractCurvature, GradientNormalizedNewton]]
"""hyperparameters ↦ (curvature, method)."""


class JaxNewton(JaxBaseline):
    """AlgoPerf's submission functions.

    A batch is its own problem: its loss, without dropout, decides whether its step is accepted. Models that
    put out more than an array are not supported.

    Args:
        settings: makes curvature and method.
    """

    def __init__(self, settings: Settings):
        super().__init__(
            lambda hyperparameters, schedule, workload: self._optimizer(
                workload, hyperparameters, None
            )
        )
        self._settings = settings

    def _optimizer(
        self, workload: Any, hyperparameters: Any, model_state: Any
    ) -> optax.GradientTransformationExtraArgs:
        curvature, method = self._settings(hyperparameters)
        objective = JaxObjective(
            workload=workload,
            model_state=model_state,
            label_smoothing=label_smoothing(hyperparameters),
        )
        return gradient_normalized_newton(
            hyperparameters.learning_rate,
            outputs_fn=objective.outputs,
            loss_fn=objective.loss,
            curvature=curvature,
            method=method,
        )

    def _compiled(self, workload: Any, optimizer: Any, hyperparameters: Any) -> Callable[..., Any]:
        """Return one step as a compiled function."""

        @functools.partial(jax.jit, donate_argnums=(1,))
        def step(params: Any, state: Any, model_state: Any, batch: Any, rng: Any) -> Any:
            own = self._optimizer(workload, hyperparameters, model_state)
            updates, state = own.update(params, state, params, batch={BATCH: batch})
            _, new_state = workload.model_fn(
                params,
                batch,
                model_state,
                ForwardPassMode.TRAIN,
                rng,
                update_batch_norm=True,
                **model_options(hyperparameters),
            )
            return optax.apply_updates(params, updates), state, new_state

        return step
