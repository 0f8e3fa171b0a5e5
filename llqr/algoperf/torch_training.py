"""One training step in PyTorch, and a submission made of it.

Runs in one process, or in the processes of a data-parallel run (``torchrun`` and DistributedDataParallel),
each with its share of every batch; factors are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed.nn
from torch import Tensor, nn

from llqr.algoperf.batches import epoch_length
from llqr.algoperf.curvature_batches import CurvatureBatch, curvature_batch
from llqr.algoperf.grouping import too_large
from llqr.algoperf.likelihoods import Likelihood, specification
from llqr.algoperf.planning import Plan
from llqr.algoperf.recipes import Recipe
from llqr.algoperf.submission import Submission
from llqr.algoperf.torch_curvature import WHOLE, TorchObjective, Whole
from llqr.algoperf.torch_running_statistics import PresentStatistics
from llqr.metrics import AbstractMetric
from llqr.torch import LLQR
from llqr.torch.distributed import world_size
from llqr.torch.passes import named_parameters

RecipeOf = Callable[[Any, Any], Recipe]
"""(workload, hyperparameters) ↦ recipe."""

LOG_INTERVAL = 100


class TorchTrainer:
    """The optimizers of a run and its step counter.

    Args:
        workload: model, loss, loss type and step hint.
        recipe: settings.
        model: the model, wrapped or not.
    """

    def __init__(self, workload: Any, recipe: Recipe, model: nn.Module) -> None:
        self.workload, self.recipe = workload, recipe
        self._modes = specification(workload).ForwardPassMode
        self._objective = TorchObjective(workload=workload, label_smoothing=recipe.label_smoothing)
        named = {k: v for k, v in named_parameters(model).items() if v.requires_grad}
        left = too_large({name: tuple(value.shape) for name, value in named.items()})
        self._names = [name for name in named if name not in left]
        self._parameters = list(named.values())
        self.optimizer = LLQR(
            self._adam([named[name] for name in self._names]),
            model,
            self._objective.loss,
            recipe.config(self._names),
            outputs_fn=self._objective.outputs,
            weights_fn=self._objective.weights,
        )
        # What the optimizer's configuration was made for; None for the first one, of no batch.
        self._configured_for: tuple[AbstractMetric, Plan] | None = None
        self.left = self._adam([named[name] for name in sorted(left)]) if left else None
        self._statistics = PresentStatistics(model)
        self.steps = 0

    def step(
        self,
        model: nn.Module,
        model_state: Any,
        batch: Mapping[str, Any],
        rng: Any,
        *,
        measured: bool = False,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Take one step; return the new model state, and loss and gradient norm if ``measured``."""
        for parameter in self._parameters:
            parameter.grad = None
        self._statistics.train(model, batch)
        loss, outputs, model_state = self._loss(model, model_state, batch, rng)
        loss.backward()
        metrics = {"loss": loss.detach(), "grad_norm": self._gradient_norm()} if measured else {}
        self._clip_gradient()
        epoch = epoch_length(self.workload, batch, world_size())
        self._update(
            self._curvature(batch, outputs) if self.optimizer.fit_is_due else None,
            float(self.recipe.decay(self.steps, np, epoch)),
        )
        self.steps += 1
        return model_state, metrics

    def prepare_for_eval(self, model: nn.Module, model_state: Any) -> None:
        """Bring running statistics to the present (:mod:`llqr.algoperf.running_statistics`)."""
        self._statistics.evaluate(model, self.workload, model_state)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizers' states, the counter and the running statistics to go on with."""
        left = None if self.left is None else self.left.state_dict()
        return {
            "optimizer": self.optimizer.state_dict(),
            "left": left,
            "steps": self.steps,
            "running_statistics": self._statistics.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what :meth:`state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.left is not None:
            self.left.load_state_dict(state["left"])
        self.steps = state["steps"]
        self._statistics.load_state_dict(state["running_statistics"])

    def _adam(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        recipe = self.recipe
        return torch.optim.Adam(
            parameters,
            lr=recipe.base_step,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.epsilon,
        )

    def _loss(
        self, model: nn.Module, model_state: Any, batch: Mapping[str, Any], rng: Any
    ) -> tuple[Tensor, Any, Any]:
        """Return the mean training loss over all processes, the detached outputs and the model state."""
        recipe = self.recipe
        dropout = {} if recipe.dropout_rate is None else {"dropout_rate": recipe.dropout_rate}
        # Most workloads' model_fn does this; done twice it would walk over all modules twice.
        if not model.training:
            model.train()
        outputs, model_state = self.workload.model_fn(
            params=model,
            augmented_and_preprocessed_input_batch=batch,
            model_state=model_state,
            mode=self._modes.TRAIN,
            rng=rng,
            update_batch_norm=True,
            **dropout,
        )
        loss = self.workload.loss_fn(
            label_batch=batch["targets"],
            logits_batch=outputs,
            mask_batch=batch.get("weights"),
            label_smoothing=float(recipe.smoothing(self.steps, np)),
        )
        total, count = loss["summed"], loss["n_valid_examples"]
        count = torch.as_tensor(count, dtype=total.dtype, device=total.device).detach()
        if world_size() > 1:
            # The sum's gradient reaches every process, and the wrapper averages over processes.
            total = torch.distributed.nn.all_reduce(total)
            torch.distributed.all_reduce(count)
        return total / count, _detached(outputs), model_state

    def _curvature(self, batch: Mapping[str, Any], outputs: Any) -> CurvatureBatch:
        logits = outputs[0] if isinstance(outputs, tuple) else outputs

        def probe(likelihood: Likelihood) -> Tensor:
            return self._objective.probe(likelihood, logits, batch)

        return curvature_batch(
            batch,
            outputs,
            loss_type=self.workload.loss_type,
            products=self.recipe.products(self._names),
            probe=probe,
            processes=world_size(),
        )

    @torch.no_grad()
    def _gradient_norm(self) -> Tensor:
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._gradients())))

    @torch.no_grad()
    def _clip_gradient(self) -> None:
        """Scale the gradient down to the limit on its norm if there is one."""
        limit = self.recipe.gradient_clip
        if limit is not None:
            share = torch.clamp(limit / torch.clamp(self._gradient_norm(), min=1e-16), max=1.0)
            torch._foreach_mul_(self._gradients(), share)

    def _gradients(self) -> list[Tensor]:
        return [value.grad for value in self._parameters if value.grad is not None]

    @torch.no_grad()
    def _update(self, chosen: CurvatureBatch | None, decay: float) -> None:
        """θ ← θ − η (U a + w θ), w = ``decay``, after a refresh if there is a curvature batch."""
        piece = None
        if chosen is not None:
            # What depends on the batch's shapes, which are mostly those of the last one.
            wanted = chosen.likelihood.metric, chosen.plan
            if wanted != self._configured_for:
                self.optimizer.config = self.recipe.config(self._names, *wanted)
                self._configured_for = wanted
            piece = {**chosen.cut, WHOLE: Whole(chosen.whole)}
        schedule = self.recipe.schedule
        rate = 1.0 if schedule is None else float(schedule(self.steps, np))
        moves = rate != 1.0 or decay != 0.0
        old = [value.detach().clone() for value in self._parameters] if moves else []
        self.optimizer.step(batch=piece)
        if self.left is not None:
            share = float(self.recipe.left_share(self.steps, np))
            for group in self.left.param_groups:
                group["lr"] = self.recipe.base_step * share
            self.left.step()
        if moves:
            torch._foreach_lerp_(self._parameters, old, 1.0 - rate)
            least = self.recipe.decay.axes
            decayed = [
                pair for pair in zip(self._parameters, old, strict=True) if pair[0].ndim >= least
            ]
            if decayed:
                torch._foreach_add_(*map(list, zip(*decayed, strict=True)), alpha=-rate * decay)


def _detached(outputs: Any) -> Any:
    if isinstance(outputs, tuple):
        return tuple(_detached(value) for value in outputs)
    return outputs.detach()


class TorchSubmission(Submission):
    """AlgoPerf's submission functions.

    Args:
        recipe: (workload, hyperparameters) ↦ settings.
    """

    def __init__(self, recipe: RecipeOf) -> None:
        self._recipe = recipe

    def init_optimizer_state(
        self, workload: Any, model_params: Any, model_state: Any, hyperparameters: Any, rng: Any
    ) -> dict[str, TorchTrainer]:
        """Return the trainer, which saves and loads itself as an optimizer does."""
        recipe = self._recipe(workload, hyperparameters)
        return {"llqr": TorchTrainer(workload, recipe, model_params)}

    def update_params(
        self,
        workload: Any,
        current_param_container: Any,
        current_params_types: Any,
        model_state: Any,
        hyperparameters: Any,
        batch: Any,
        loss_type: Any,
        optimizer_state: dict[str, TorchTrainer],
        eval_results: Any,
        global_step: int,
        rng: Any,
        train_state: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Take one step."""
        trainer = optimizer_state["llqr"]
        logger = getattr(workload, "metrics_logger", None)
        logs = logger is not None and global_step % LOG_INTERVAL == 0
        model_state, metrics = trainer.step(
            current_param_container, model_state, batch, rng, measured=logs
        )
        if logs:
            counters = trainer.optimizer.counters()
            numbers = {name: value.item() for name, value in metrics.items()} | {
                "refreshes": counters["fits"],
                "rejected_refreshes": counters["rejected"],
            }
            logger.append_scalar_metrics(numbers, global_step)
        return optimizer_state, current_param_container, model_state

    def evaluated_state(
        self, optimizer_state: dict[str, TorchTrainer], params: Any, model_state: Any
    ) -> Any:
        """Bring running statistics, which the model holds, to the present."""
        optimizer_state["llqr"].prepare_for_eval(params, model_state)
        return model_state
