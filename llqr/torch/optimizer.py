"""LLQR around any ``torch.optim`` optimizer.

    gradient mode   p.grad ← U g,  base step,  p.grad ← g           (the base sees U g)
    update mode     u = θ − base(θ, g),  θ ← θ − U u                (U acts on the base's update)

U is fitted on the model's own quadratic model whenever ``config.update_interval`` says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llqr.backend import Tensors
from llqr.config import LLQRConfig
from llqr.curvature import quadratic_model
from llqr.holdout import FitBatch
from llqr.multiplier import keeps_parameters
from llqr.preconditioner import PreconditionerState
from llqr.quadratic import QuadraticModel
from llqr.solvers import Status
from llqr.torch import reporting, sources, state
from llqr.torch.distributed import ProcessGroup
from llqr.torch.evaluation import LossFunction, OutputsFunction, WeightsFunction
from llqr.torch.fit_batch import make_fit_batch
from llqr.torch.gradients import (
    ExchangedGradients,
    Snapshot,
    non_finite_names,
    training_gradient,
    undone_on_error,
    versions_kept,
)
from llqr.torch.linearise import model_function
from llqr.torch.membership import Membership, check_arguments
from llqr.torch.passes import without_autocast
from llqr.torch.sources import Sources
from llqr.torch.wrapper import AbstractWrapper, Closure, replayed


class LLQR(AbstractWrapper):
    """Preconditions the gradient or the update of a base optimizer.

    ``param_groups``, ``state`` and ``defaults`` are the base optimizer's own, so schedulers and edits of
    groups act on both. Parameters that are frozen or in no group are left out; one without a gradient is
    not stepped and counts as zero.

    Args:
        base_optimizer: any ``torch.optim.Optimizer`` over parameters of the model.
        model: the model, also inside DistributedDataParallel or ``torch.compile``.
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser), both 0-d.
        config: settings, see :class:`llqr.config.LLQRConfig` and :mod:`llqr.presets`.
        outputs_fn: (model, batch) ↦ outputs or (outputs, {name: intermediate}); default
            ``model(batch[0])``.
        weights_fn: batch ↦ None, weights of the loss's events, or {name: weights}.
        process_group: processes of data-parallel training; None for the default group if there is one.
            ``config.curvature_batch_size`` counts the examples of all of them.

    Raises:
        ValueError: if a group holds a parameter that the model does not name, or a structure asks for a
            direction that the mode cannot supply.
        TypeError: for an argument of the wrong kind.
    """

    def __init__(
        self,
        base_optimizer: Optimizer,
        model: nn.Module,
        loss_fn: LossFunction,
        config: LLQRConfig,
        *,
        outputs_fn: OutputsFunction | None = None,
        weights_fn: WeightsFunction | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        check_arguments(base_optimizer, model, loss_fn, config, outputs_fn, weights_fn)
        super().__init__(base_optimizer)
        self.model = model
        self.loss_fn = loss_fn
        self.outputs_fn = outputs_fn
        self.weights_fn = weights_fn
        self.process_group = process_group
        self.skipped = 0
        self._members = Membership(model, base_optimizer.param_groups, config)
        self._take(self._members.init())

    @property
    def config(self) -> LLQRConfig:
        """The settings; others may be set between steps, if the structure stays.

        Raises:
            ValueError: on setting, if the structure is another one, or a multiplier with slopes comes or
                goes.
        """
        return self._members.preconditioner.config

    @config.setter
    def config(self, config: LLQRConfig) -> None:
        if config.structure != self.config.structure or config.apply_to != self.config.apply_to:
            raise ValueError(
                "config must keep structure and apply_to, got "
                f"{config.structure!r} on the {config.apply_to} for {self.config.structure!r} on the "
                f"{self.config.apply_to}; build a new optimizer for that"
            )
        if keeps_parameters(config.multiplier) != keeps_parameters(self.config.multiplier):
            raise ValueError(
                "config must keep a multiplier with slopes or the lack of one, got "
                f"{config.multiplier!r} for {self.config.multiplier!r}; build a new optimizer for that"
            )
        self._members.preconditioner.config = config

    @property
    def fit_is_due(self) -> bool:
        """Does the next step fit the factors, so that it needs ``batch``."""
        return self._step >= self._next_fit

    @property
    def last_fit(self) -> reporting.FitSummary:
        """Numbers of the last fit; ``str`` gives a sentence with advice."""
        return reporting.summary(self._members.preconditioner, self._state.last_fit)

    def counters(self) -> dict[str, int]:
        """Return steps, fits taken into use, rejected fits, fallbacks of blocks, and skipped steps."""
        kept = ("step", "fits", "rejected", "fallbacks")
        return {n: int(getattr(self._state, n)) for n in kept} | {"skipped": self.skipped}

    def factors(self) -> dict[str, dict[str, Tensor]]:
        """Return the factors in use, by block and factor name; not copied."""
        return self._state.factors

    def report(self) -> str:
        """Return a table of what each parameter gets, its memory, and what is left alone and why."""
        return self._members.report()

    @torch.no_grad()
    def step(self, closure: Closure | None = None, *, batch: Any = None) -> Any:  # type: ignore[override]
        """Take one step, after fitting the factors if that is due.

        A non-finite gradient (of the first evaluation, with a closure) skips the step with a
        :class:`~llqr.torch.reporting.NonFiniteWarning`.

        Args:
            closure: re-evaluates the model and returns the loss, as for any torch optimizer.
            batch: what ``outputs_fn`` and ``loss_fn`` take; needed when a fit is due, else ignored. A
                fit that is not taken into use is due again at the next step.

        Returns:
            What the closure returned at the initial parameters, None without one.

        Raises:
            ValueError: if a fit is due and there is no batch; nothing has changed then.
        """
        self._follow_parameters()
        due = self.fit_is_due
        if due and batch is None:
            raise ValueError(
                f"batch must be given when a fit is due (step {self._step}), got None; call "
                "step(batch=batch) at every step, or whenever optimizer.fit_is_due"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        bad = non_finite_names(self._members.parameters)
        if bad:
            self.skipped += 1
            message = reporting.skipped_step(bad, self.skipped)
            warnings.warn(message, reporting.NonFiniteWarning, stacklevel=2)
            return loss
        run = self._update_step if self.config.apply_to == "update" else self._gradient_step
        run(closure, loss, batch if due else None)
        self._state = self._members.preconditioner.advance(self._state)
        self._step += 1
        return loss

    def _gradient_step(self, closure: Closure | None, loss: Any, batch: Any) -> None:
        """Let the base optimizer step on U g."""
        if batch is not None:
            # U is fitted to act on gradients of this batch.
            fit_batch = self._fit_batch(batch)
            model = self._model(fit_batch)
            seen = fit_batch.seen_gradient(model.gradient)
            unseen = None if seen is None else sources.of_gradient(seen)
            self._fit(model, sources.of_gradient(model.gradient), unseen, seen)
        exchanged = ExchangedGradients(self._members.parameters)

        def show() -> None:
            gradient = training_gradient(self._members.parameters, self._members.dtype)
            exchanged.show(self._precondition(sources.of_gradient(gradient)))

        try:
            if closure is None:
                show()
                self.base_optimizer.step()
            else:
                self.base_optimizer.step(replayed(closure, loss, exchanged.restore, show))
        finally:
            exchanged.restore()

    def _update_step(self, closure: Closure | None, loss: Any, batch: Any) -> None:
        """Let the base optimizer step on g, and replace its update u by U u."""
        members = self._members
        gradient = training_gradient(members.parameters, members.dtype)
        if closure is not None:
            # The next evaluation may zero these very tensors.
            gradient = {name: value.clone() for name, value in gradient.items()}
        # Only a fit can fail after the base has stepped, or tries a step, so only then its state is copied.
        before = Snapshot(members.parameters, None if batch is None else self.base_optimizer)
        with undone_on_error(before):
            model = seen = unseen = None
            with ExitStack() as stack:
                if batch is not None:
                    fit_batch = self._fit_batch(batch)
                    model = self._model(fit_batch)
                    seen = fit_batch.seen_gradient(gradient)
                    # What the base does to parameters below is undone before the model is used again.
                    stack.enter_context(versions_kept(members.parameters))
                    if seen is not None and closure is None:
                        other = fit_batch.partly_unseen(gradient, seen, model.gradient)
                        unseen = sources.of_tried_update(
                            self.base_optimizer, before, members.parameters, other, members.dtype
                        )
                if closure is None:
                    self.base_optimizer.step()
                else:
                    self.base_optimizer.step(replayed(closure, loss))
                made = sources.of_update(before, members.parameters, gradient, members.dtype)
                if model is not None:
                    before.restore_parameters()
            if model is not None:
                self._fit(model, made, unseen, seen, before.values_in(members.dtype))
            moved = self._precondition(made)
            for name, parameter in members.parameters.items():
                if parameter.grad is not None:
                    # In one pass where the dtype is the parameter's own.
                    value, move = before.values[name].to(members.dtype), moved[name]
                    if parameter.dtype == members.dtype:
                        torch.sub(value, move, out=parameter)
                    else:
                        parameter.copy_(value - move)

    def _precondition(self, vectors: Sources) -> Tensors:
        members = self._members
        with torch.no_grad(), without_autocast(members.like.device):
            result, self._state = members.preconditioner.precondition(self._state, vectors)
        return result

    def _fit_batch(self, batch: Any) -> FitBatch:
        function = model_function(
            self.model,
            self._members.parameters,
            self.loss_fn,
            self.config.curvature,
            self.outputs_fn,
            self.weights_fn,
        )
        return make_fit_batch(function, batch, self.config, self.process_group)

    def _model(self, fit_batch: FitBatch) -> QuadraticModel:
        with without_autocast(self._members.like.device):
            return quadratic_model(self.config.curvature, fit_batch.problem)

    def _fit(
        self,
        model: QuadraticModel,
        vectors: Sources,
        unseen: Sources | None,
        seen_gradient: Tensors | None,
        parameters: Tensors | None = None,
    ) -> None:
        preconditioner = self._members.preconditioner
        with without_autocast(self._members.like.device):
            fitted = preconditioner.fit(
                self._state, model, vectors, unseen, seen_gradient, parameters
            )
        self._take(state.in_all_processes(fitted, self.process_group))
        if int(self._state.last_fit.status) == Status.NOT_FINITE:
            message = reporting.failed_fit(self.last_fit)
            warnings.warn(message, reporting.NonFiniteWarning, stacklevel=4)

    def _take(self, fitted: PreconditionerState) -> None:
        self._state = fitted
        # Mirrored on the host, so that asking whether a fit is due does not wait for the device.
        self._step, self._next_fit = int(fitted.step), int(fitted.next_fit)

    def _follow_parameters(self) -> None:
        """Notice parameters that were added, frozen, unfrozen, cast or moved since the last step."""
        if not self._members.is_current(self.param_groups):
            members = Membership(self.model, self.param_groups, self.config)
            self._take(members.carry_over(self._members, self._state))
            self._members = members

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base optimizer; its parameters start with U = I until the next fit.

        Raises:
            ValueError: if the model does not name one of them; nothing has changed then.
            TypeError: if one of them is complex; likewise.
        """
        self.base_optimizer.add_param_group(param_group)
        try:
            self._follow_parameters()
        except (ValueError, TypeError):
            self.base_optimizer.param_groups.pop()
            raise

    def _packed(self) -> dict[str, Any]:
        self._follow_parameters()
        packed = state.pack(self._members.preconditioner, self._state, self.skipped)
        return {state.KEY: packed}

    def _checked(self, state_dict: dict[str, Any]) -> Callable[[], None]:
        self._follow_parameters()
        preconditioner = self._members.preconditioner
        state.check(preconditioner, state_dict)
        loaded, skipped = state.unpack(preconditioner, state_dict, self._members.like)

        def take() -> None:
            self._take(loaded)
            self.skipped = skipped

        return take
