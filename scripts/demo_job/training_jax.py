"""Training in JAX: one compiled step of optax's Adam, or of LLQR around it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import llqr.jax
from scripts.demo_job import data
from scripts.demo_job.methods import hidden_name, learning_rate, llqr_config
from scripts.demo_job.tasks import Task, initial_arrays

Params = dict[str, Any]


def network(params: Params, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return the outputs [batch, out] of a tanh network and the activations of its hidden layers."""
    hidden = {}
    for index in range(len(params) - 1):
        layer = params[f"layers_{index}"]
        x = hidden[hidden_name(index)] = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    last = params[f"layers_{len(params) - 1}"]
    return x @ last["kernel"] + last["bias"], hidden


def plane(params: Params, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return Rosenbrock's residuals [1, 2]: ½ ‖r‖² = (1 − a)² + 100 (b − a²)²; nothing is hidden."""
    a, b = params["point"]
    return jnp.stack([2**0.5 * (1.0 - a), 200**0.5 * (b - a * a)]).reshape(1, 2), {}


def initial_params(task: Task, seed: int) -> Params:
    """Return the initial weights as a pytree."""
    arrays = [jnp.asarray(value) for value in initial_arrays(task, seed)]
    if not task.layers:
        return {"point": arrays[0]}
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return {
        f"layers_{index}": {"kernel": kernel, "bias": bias}
        for index, (kernel, bias) in enumerate(pairs)
    }


def loss_function(task: Task):
    """Return (outputs, batch) ↦ mean loss."""
    if task.loss == "cross_entropy":
        return lambda outputs, batch: optax.softmax_cross_entropy_with_integer_labels(
            outputs, batch[1]
        ).mean()
    if task.loss == "reconstruction":
        return lambda outputs, batch: (
            optax.sigmoid_binary_cross_entropy(outputs, batch[1]).sum() / len(outputs)
        )
    return lambda outputs, batch: 0.5 * (outputs * outputs).sum()


class Compiled(NamedTuple):
    """Functions of one task and method, compiled once for all seeds."""

    init: Any
    step: Any
    evaluate: Any


@cache
def compile_task(task: Task, method: str) -> Compiled:
    """Return the optimizer's ``init``, the training step and the evaluation."""
    examples = data.load(task)
    train = (jnp.asarray(examples.inputs), jnp.asarray(examples.targets))
    validation = (
        jnp.asarray(examples.validation_inputs),
        jnp.asarray(examples.validation_targets),
    )
    function, loss_fn = network if task.layers else plane, loss_function(task)

    def outputs_fn(params: Params, batch: Any) -> jax.Array:
        return function(params, batch[0])[0]

    def with_hidden(params: Params, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return function(params, batch[0])

    base = optax.adam(learning_rate(task, method), *task.betas)
    optimizer = optax.with_extra_args_support(base)
    if method == "llqr":
        optimizer = llqr.jax.llqr(
            base,
            outputs_fn=with_hidden if task.llqr.hidden_metric else outputs_fn,
            loss_fn=loss_fn,
            config=llqr_config(task),
        )

    @jax.jit
    def step(params: Params, state: Any, indices: jax.Array) -> tuple[Params, Any]:
        batch = (train[0][indices], train[1][indices])
        gradient = jax.grad(lambda p: loss_fn(outputs_fn(p, batch), batch))(params)
        updates, state = optimizer.update(gradient, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def evaluate(params: Params) -> dict[str, jax.Array]:
        values = {"measure": loss_fn(outputs_fn(params, train), train) - examples.offset}
        if task.loss == "cross_entropy":
            guess = outputs_fn(params, validation).argmax(axis=1)
            values["validation_accuracy"] = (guess == validation[1]).mean()
        return values

    return Compiled(jax.jit(optimizer.init), step, evaluate)


class JaxTrainer:
    """Weights, optimizer state and the compiled functions on them.

    Args:
        task: the task.
        method: ``"base"`` or ``"llqr"``.
        seed: of the initial weights.
    """

    def __init__(self, task: Task, method: str, seed: int) -> None:
        self.task = task
        self.compiled = compile_task(task, method)
        self.params = initial_params(task, seed)
        self.state = self.compiled.init(self.params)

    def warm_up(self) -> None:
        """Take two steps and forget them: the functions are pure."""
        original = self.params, self.state
        for _ in range(2):
            self.step(np.arange(self.task.batch_size))
        self.wait()
        self.params, self.state = original
        self.evaluate()

    def step(self, indices: np.ndarray) -> None:
        """Take one training step."""
        self.params, self.state = self.compiled.step(self.params, self.state, indices)

    def wait(self) -> None:
        """Wait for the device."""
        jax.block_until_ready(self.params)

    def evaluate(self) -> dict[str, float]:
        """Return the training loss, and for the classifier the validation accuracy in [0, 1]."""
        return {name: float(value) for name, value in self.compiled.evaluate(self.params).items()}
