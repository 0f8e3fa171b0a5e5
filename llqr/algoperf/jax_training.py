"""One training step in JAX, and a submission made of it.

The step is compiled once, refreshes included: parameters and states are replicated over all devices, the
batch is split along its leading axis, and old parameters and states are donated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llqr.algoperf.batches import epoch_length
from llqr.algoperf.curvature_batches import CurvatureBatch, curvature_batch
from llqr.algoperf.grouping import too_large
from llqr.algoperf.jax_curvature import JaxObjective
from llqr.algoperf.jax_running_statistics import brought_to_present, training_pass
from llqr.algoperf.likelihoods import specification
from llqr.algoperf.recipes import Recipe
from llqr.algoperf.submission import Submission
from llqr.jax import llqr, named_leaves
from llqr.jax.state import find_states

RecipeOf = Callable[[Any, Any], Recipe]
"""(workload, hyperparameters) ↦ recipe."""

PRECONDITIONED, LEFT = "preconditioned", "left to the base optimizer"
LOG_INTERVAL = 100


class TrainingState(NamedTuple):
    """What changes beside the parameters.

    Attributes:
        optimizer: the optimizer's state.
        running: the model state that training goes on with; evaluations get another one
            (:mod:`llqr.algoperf.running_statistics`).
    """

    optimizer: Any
    running: Any


class JaxTrainer:
    """Everything about a run that does not change, and its last batch.

    Args:
        workload: model, loss, loss type and step hint.
        recipe: settings.
        params: the parameters, for their names and shapes.
    """

    def __init__(self, workload: Any, recipe: Recipe, params: Any) -> None:
        self.workload, self.recipe = workload, recipe
        self._modes = specification(workload).ForwardPassMode
        shapes = {name: tuple(leaf.shape) for name, leaf in named_leaves(params).items()}
        self._left = too_large(shapes)
        self._names = [name for name in shapes if name not in self._left]
        self._shards = jax.device_count()
        mesh = Mesh(jax.devices(), ("batch",))
        replicated = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec("batch"))
        self._replicated = replicated
        self._compiled = jax.jit(
            self._step,
            donate_argnums=(0, 1),
            in_shardings=(replicated, replicated, split, replicated),
            out_shardings=replicated,
        )
        self._compiled_present = jax.jit(
            self._present,
            in_shardings=(replicated, replicated, split),
            out_shardings=replicated,
        )
        self._last_batch: Any = None

    def init(self, params: Any, model_state: Any) -> TrainingState:
        """Return the state to begin with."""
        nothing = JaxObjective(workload=self.workload)
        optimizer = self._transformation(params, nothing, None, 1.0).init(params)
        # A copy, since steps give away what they are given.
        running = jax.tree.map(jnp.copy, model_state)
        return jax.device_put(TrainingState(optimizer, running), self._replicated)

    def step(
        self, state: TrainingState, params: Any, batch: Any, rng: Any
    ) -> tuple[TrainingState, Any, Any, dict[str, Any]]:
        """Return the new state, parameters, model state and what is worth logging."""
        trees = self._placed(_without_device_axis((state, params)))
        if jax.tree.leaves(state.running):
            self._last_batch = batch
        return self._compiled(*trees, batch, rng)

    def evaluated(self, state: TrainingState, params: Any, model_state: Any) -> Any:
        """Return the model state to evaluate with, the present one."""
        if self._last_batch is None:
            return model_state
        return self._compiled_present(params, state.running, self._last_batch)

    def _present(self, params: Any, running: Any, batch: Any) -> Any:
        forward = training_pass(self.workload, params)
        return brought_to_present(running, forward, batch, self._shards)

    def _placed(self, trees: Any) -> Any:
        """Return parameters and states on all devices, as the compiled step returns them.

        Those of the first step come from elsewhere, and the step would be compiled for them alone.
        """
        leaves = jax.tree.leaves(trees)
        if all(getattr(leaf, "sharding", None) == self._replicated for leaf in leaves):
            return trees
        return jax.device_put(trees, self._replicated)

    def _step(
        self, state: TrainingState, params: Any, batch: Any, rng: Any
    ) -> tuple[TrainingState, Any, Any, dict[str, Any]]:
        smoothing = self.recipe.smoothing(find_states(state)[0].preconditioner.step, jnp)
        loss, gradient, model_state, outputs = self._gradient(
            params, state.running, batch, rng, smoothing
        )
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)))
        if self.recipe.gradient_clip is not None:
            share = jnp.minimum(1.0, self.recipe.gradient_clip / jnp.maximum(norm, 1e-16))
            gradient = jax.tree.map(lambda leaf: leaf * share, gradient)
        objective, chosen = self._curvature(model_state, batch, outputs)
        epoch = epoch_length(self.workload, batch)
        updates, optimizer = self._transformation(params, objective, chosen, epoch).update(
            gradient, state.optimizer, params, batch=chosen.cut, full_params=params
        )
        counters = find_states(optimizer)[0].preconditioner
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "refreshes": counters.fits,
            "rejected_refreshes": counters.rejected,
        }
        state = TrainingState(optimizer, model_state)
        return state, optax.apply_updates(params, updates), model_state, metrics

    def _gradient(
        self, params: Any, model_state: Any, batch: Any, rng: Any, smoothing: Any
    ) -> tuple:
        """Return the mean training loss, its gradient, the new model state and the outputs."""
        recipe = self.recipe
        dropout = {} if recipe.dropout_rate is None else {"dropout_rate": recipe.dropout_rate}

        def summed_loss(values: Any) -> tuple[Any, Any]:
            outputs, new_state = self.workload.model_fn(
                values,
                batch,
                model_state,
                self._modes.TRAIN,
                rng,
                update_batch_norm=True,
                **dropout,
            )
            loss = self.workload.loss_fn(
                label_batch=batch["targets"],
                logits_batch=outputs,
                mask_batch=batch.get("weights"),
                label_smoothing=smoothing,
            )
            return loss["summed"], (loss["n_valid_examples"], new_state, outputs)

        differentiated = jax.value_and_grad(summed_loss, has_aux=True)
        (total, (count, new_state, outputs)), gradient = differentiated(params)
        gradient = jax.tree.map(lambda leaf: leaf / count, gradient)
        return total / count, gradient, new_state, jax.lax.stop_gradient(outputs)

    def _curvature(
        self, model_state: Any, batch: Any, outputs: Any
    ) -> tuple[JaxObjective, CurvatureBatch]:
        def objective(whole: dict[str, Any]) -> JaxObjective:
            return JaxObjective(
                workload=self.workload,
                model_state=model_state,
                whole=whole,
                label_smoothing=self.recipe.label_smoothing,
            )

        chosen = curvature_batch(
            batch,
            outputs,
            loss_type=self.workload.loss_type,
            products=self.recipe.products(self._names),
            probe=lambda likelihood: objective({}).probe(likelihood, outputs, batch),
            shards=self._shards,
        )
        return objective(chosen.whole), chosen

    def _transformation(
        self, params: Any, objective: JaxObjective, chosen: CurvatureBatch | None, epoch: float
    ) -> optax.GradientTransformationExtraArgs:
        """Return u = −η (U a + w θ), for one step's curvature batch; None only to make a state.

        ``epoch`` is the number of steps in which all training examples are seen once.
        """
        recipe = self.recipe
        known = (None, None) if chosen is None else (chosen.likelihood.metric, chosen.plan)
        base = optax.chain(
            optax.scale_by_adam(recipe.beta1, recipe.beta2, recipe.epsilon),
            optax.scale(-recipe.base_step),
        )
        direction = llqr(
            base,
            outputs_fn=objective.outputs,
            loss_fn=objective.loss,
            weights_fn=objective.weights,
            config=recipe.config(self._names, *known),
        )
        if self._left:
            left = optax.chain(
                base, optax.scale_by_schedule(lambda step: recipe.left_share(step, jnp))
            )
            direction = optax.multi_transform(
                {PRECONDITIONED: direction, LEFT: left}, self._labels(params)
            )
        schedule = recipe.schedule
        return optax.chain(
            direction,
            self._decay(epoch),
            optax.scale_by_schedule(lambda step: 1.0 if schedule is None else schedule(step, jnp)),
        )

    def _decay(self, epoch: float) -> optax.GradientTransformation:
        """Return u ↦ u − w_t θ for the tensors that decay."""
        recipe = self.recipe

        def update(updates: Any, step: Any, params: Any = None) -> tuple[Any, Any]:
            rate = recipe.decay(step, jnp, epoch)

            def one(own: Any, value: Any) -> Any:
                if value.ndim < recipe.decay.axes:
                    return own
                return own - rate.astype(value.dtype) * value

            return jax.tree.map(one, updates, params), step + 1

        return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)

    def _labels(self, params: Any) -> Any:
        labels = [LEFT if name in self._left else PRECONDITIONED for name in named_leaves(params)]
        return jax.tree.unflatten(jax.tree.structure(params), labels)


def _without_device_axis(trees: Any) -> Any:
    """Return states as they are, or without the leading device axis that restored checkpoints have.

    AlgoPerf restores with ``flax.jax_utils.replicate``, which stacks one copy per device.
    """
    if find_states(trees[0])[0].skipped.ndim == 0:
        return trees
    return jax.tree.map(lambda leaf: leaf[0], trees)


class JaxSubmission(Submission):
    """AlgoPerf's submission functions.

    Args:
        recipe: (workload, hyperparameters) ↦ settings.
    """

    def __init__(self, recipe: RecipeOf) -> None:
        self._recipe = recipe

    def init_optimizer_state(
        self, workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
    ) -> tuple[Any, JaxTrainer]:
        """Return (state, trainer): AlgoPerf saves the first and keeps the second."""
        trainer = JaxTrainer(workload, self._recipe(workload, hyperparameters), model_params)
        return trainer.init(model_params, model_state), trainer

    def update_params(
        self,
        workload: Any,
        current_param_container: Any,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        batch: Any,
        loss_type: Any,
        optimizer_state: tuple[Any, JaxTrainer],
        eval_results: Any,
        global_step: int,
        rng: Any,
        train_state: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Take one step."""
        state, trainer = optimizer_state
        state, params, model_state, metrics = trainer.step(
            state, current_param_container, batch, rng
        )
        logger = getattr(workload, "metrics_logger", None)
        if logger is not None and global_step % LOG_INTERVAL == 0:
            logger.append_scalar_metrics(
                {name: value.item() for name, value in metrics.items()}, global_step
            )
        return (state, trainer), params, model_state

    def evaluated_state(
        self, optimizer_state: tuple[TrainingState, JaxTrainer], params: Any, model_state: Any
    ) -> Any:
        """Return the model state with running statistics brought to the present."""
        state, trainer = optimizer_state
        return trainer.evaluated(state, params, model_state)
