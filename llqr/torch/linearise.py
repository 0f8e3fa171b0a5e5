"""Linearised torch models: a curvature batch as a sum over chunks and processes.

With one chunk the linearisation is built once and every product of the fit reuses it
(:mod:`llqr.torch.linearisation`). With several, each product linearises chunk by chunk and frees the
graph in between, so that memory is bounded by the chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llqr.backend import Tensors
from llqr.curvature import AbstractCurvature
from llqr.torch.backend import TorchBackend
from llqr.torch.batches import chunks
from llqr.torch.distributed import ProcessGroup, failing_together, sum_over_processes
from llqr.torch.evaluation import (
    LossFunction,
    ModelFunction,
    OutputsFunction,
    WeightsFunction,
    first_element_outputs,
    working_dtype,
)
from llqr.torch.linearisation import TorchLinearisation, gradients
from llqr.torch.passes import named_parameters, unwrap

_SMALL = 2**22
"""Elements of directions that are multiplied at once."""


class TorchProblem:
    """A curvature batch as a sum over chunks and processes (:class:`llqr.curvature.LinearisedProblem`).

    Args:
        function: the model and loss.
        batch: this process's share of the curvature batch.
        chunk_size: examples linearised at a time, None for all; then the linearisation is kept.
        process_group: processes to sum over, None for the default group if there is one.
    """

    def __init__(
        self,
        function: ModelFunction,
        batch: Any,
        chunk_size: int | None = None,
        process_group: ProcessGroup | None = None,
    ) -> None:
        self.backend = TorchBackend(map_batch_size=_directions_at_once(function))
        self._function = function
        with failing_together(function.like.device, process_group):
            self._chunks = list(chunks(batch, chunk_size))
        self._group = process_group
        self._kept: TorchLinearisation | None = None
        self._sound = False

    def sum_over_chunks(self, contribution: Callable[[Any], Any]) -> Any:
        """Return the sum of ``contribution(linearisation)`` over chunks and processes."""
        if self._sound:
            return sum_over_processes(self._own_sum(contribution), self._group)
        # What is wrong with a batch, the model or the loss shows at the first pass.
        with failing_together(self._function.like.device, self._group):
            total = self._own_sum(contribution)
        self._sound = True
        return sum_over_processes(total, self._group)

    def _own_sum(self, contribution: Callable[[Any], Any]) -> Any:
        if len(self._chunks) == 1:
            if self._kept is None:
                self._kept = TorchLinearisation(self._function, self._chunks[0])
            return self._kept.in_one_pass(contribution)
        total = None
        for chunk in self._chunks:
            part = TorchLinearisation(self._function, chunk).in_one_pass(contribution)
            total = part if total is None else _add(total, part)
        return total

    def loss(self, step: Tensors) -> Tensor:
        """Return the mean loss at θ + step; θ itself is back afterwards."""
        total = self._sum_at(step, self._loss)
        return total["loss"] / total["normaliser"]

    def loss_and_gradient(self, step: Tensors) -> tuple[Tensor, Tensors]:
        """Return the mean loss and its gradient at θ + step; θ itself is back afterwards."""
        total = self._sum_at(step, self._loss_and_gradient)
        inverse = 1.0 / total["normaliser"]
        gradient = {name: value * inverse for name, value in total["gradient"].items()}
        return total["loss"] * inverse, gradient

    def _sum_at(self, step: Tensors, contribution: Callable[[Any], dict[str, Any]]) -> Any:
        """Return the sum of a function of the chunks, with the parameters moved by the step."""
        parameters = self._function.parameters
        originals = {name: parameter.data for name, parameter in parameters.items()}
        total = None
        try:
            for name, parameter in parameters.items():
                # Exchanging the data leaves version counters, hence cached graphs, intact.
                moved = originals[name].to(self._function.dtype) + step[name]
                parameter.data = moved.to(parameter.dtype)
            for chunk in self._chunks:
                part = contribution(chunk)
                total = part if total is None else _add(total, part)
        finally:
            for name, parameter in parameters.items():
                parameter.data = originals[name]
        return sum_over_processes(total, self._group)

    def _loss(self, chunk: Any) -> dict[str, Any]:
        with self._function.new_pass().active(), torch.no_grad():
            evaluation = self._function.evaluate(chunk)
        return {"loss": evaluation.loss, "normaliser": evaluation.normaliser}

    def _loss_and_gradient(self, chunk: Any) -> dict[str, Any]:
        names, parameters = zip(*self._function.parameters.items(), strict=True)
        with self._function.new_pass().active():
            evaluation = self._function.evaluate(chunk)
            gradient = gradients([evaluation.loss], list(parameters))
        return {
            "loss": evaluation.loss.detach(),
            "normaliser": evaluation.normaliser,
            "gradient": {
                name: value.to(self._function.dtype)
                for name, value in zip(names, gradient, strict=True)
            },
        }


def _directions_at_once(function: ModelFunction) -> int:
    """Return how many directions forward products take at once: as many as are small together.

    What is gained is the overhead per operation, which only small networks notice.
    """
    size = sum(parameter.numel() for parameter in function.parameters.values())
    return max(1, _SMALL // size)


def _add(x: Any, y: Any) -> Any:
    """Return the sum of two equal nested dictionaries of tensors."""
    if isinstance(x, dict):
        return {key: _add(value, y[key]) for key, value in x.items()}
    return x + y


def model_function(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    loss_fn: LossFunction,
    curvature: AbstractCurvature,
    outputs_fn: OutputsFunction | None,
    weights_fn: WeightsFunction | None,
) -> ModelFunction:
    """Return the model and loss as one function of the named parameters."""
    return ModelFunction(
        module=unwrap(model),
        parameters=parameters,
        curvature=curvature,
        dtype=working_dtype(parameters),
        loss_fn=loss_fn,
        outputs_fn=first_element_outputs if outputs_fn is None else outputs_fn,
        weights_fn=weights_fn,
    )


def linearise(
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    curvature: AbstractCurvature,
    outputs_fn: OutputsFunction | None = None,
    weights_fn: WeightsFunction | None = None,
    chunk_size: int | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    process_group: ProcessGroup | None = None,
) -> TorchProblem:
    """Linearise a model on a batch; see :func:`llqr.curvature.quadratic_model`.

    Args:
        model: the model, wrapped or not; its mode, buffers and gradients stay as they are.
        loss_fn: (outputs, batch) ↦ mean loss, or (summed loss, normaliser).
        batch: any nesting of tensors with the example as leading axis.
        curvature: which C; also decides what a mean loss divides by.
        outputs_fn: (model, batch) ↦ outputs or (outputs, {name: intermediate}); default
            ``model(batch[0])``.
        weights_fn: batch ↦ None, weights of the output's events, or {name: weights}.
        chunk_size: examples linearised at a time; None for all, and then products share one
            linearisation.
        parameters: which to differentiate in, by name; default all that require a gradient.
        process_group: processes to sum over; None for the default group if there is one.

    Returns:
        The problem.

    Raises:
        ValueError: for an empty batch, no parameters, or an argument out of range.
    """
    if parameters is None:
        parameters = {k: v for k, v in named_parameters(model).items() if v.requires_grad}
    if not parameters:
        raise ValueError("model must have at least one trainable parameter, got none; unfreeze one")
    function = model_function(model, parameters, loss_fn, curvature, outputs_fn, weights_fn)
    return TorchProblem(function, batch, chunk_size, process_group)
