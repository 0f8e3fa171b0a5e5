"""A network given as a list of layers, turned into functions of vectors.

States and parameters are flattened, the state over the whole batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llqr.reference.autodiff import AbstractAutodiff, Restore, Tree, Vector
from llqr.reference.modes import AbstractMode, Divergence, Loss


class Layer(NamedTuple):
    """One layer x_{i+1} = f_i(x_i, θ_i).

    Layers share no parameters: a matrix used twice is two blocks of the LQR problem.
    """

    name: str
    function: Callable[[Tree, Tree], Tree]  # (x_i, θ_i) ↦ x_{i+1}
    parameters: Tree = ()  # θ_i; empty for a layer without parameters


class Stage(NamedTuple):
    """A layer as a function of vectors, and the point it is taken at."""

    function: Callable[[Vector, Vector], Vector]  # (x_i, θ_i) ↦ x_{i+1}
    state: Vector  # x_i
    parameters: Vector  # θ_i


class Network(NamedTuple):
    """A network as functions of vectors."""

    stages: list[Stage]
    outputs: Vector  # x_N
    loss: Callable[[Vector], Any]
    terms: dict[int, Callable[[Vector], Any]]  # k ↦ D_k(x_k, ·), summed where several fall on k

    def state(self, index: int) -> Vector:
        """Return x_k, 0 ≤ k ≤ N."""
        return self.outputs if index == len(self.stages) else self.stages[index].state

    def states(self, theta: Vector) -> list[Vector]:
        """Run the composed network: θ [Σ nθ_i] ↦ x_0 .. x_N."""
        values, start = [self.state(0)], 0
        for stage in self.stages:
            stop = start + stage.parameters.shape[0]
            values.append(stage.function(values[-1], theta[start:stop]))
            start = stop
        return values

    def divergence(self, theta: Vector) -> Any:
        """Evaluate D(θ_0, θ) = Σ_k D_k(x_k, x_k(θ)), θ_0 being the point of the stages."""
        states = self.states(theta)
        return sum(term(states[index]) for index, term in self.terms.items())


def vectorise(
    autodiff: AbstractAutodiff,
    layers: Sequence[Layer],
    inputs: Tree,
    loss: Loss,
    mode: AbstractMode,
) -> Network:
    """Run the network once, in float64, and turn layers, loss and mode into vector functions."""
    if not layers:
        raise ValueError("layers must hold at least one Layer, got none; add a layer")
    flattened, stages = [autodiff.flatten(inputs)], []
    for layer in layers:
        state, restore_state = flattened[-1]
        parameters, restore_parameters = autodiff.flatten(layer.parameters)
        function = _vector_function(autodiff, layer, restore_state, restore_parameters)
        stages.append(Stage(function, state, parameters))
        outputs = layer.function(restore_state(state), restore_parameters(parameters))
        flattened.append(autodiff.flatten(outputs))
    outputs, restore_outputs = flattened[-1]
    _scalar("loss", loss(restore_outputs(outputs)))
    return Network(
        stages=stages,
        outputs=outputs,
        loss=lambda vector: loss(restore_outputs(vector)),
        terms=_vector_terms(mode, loss, flattened),
    )


def _vector_function(
    autodiff: AbstractAutodiff, layer: Layer, restore_state: Restore, restore_parameters: Restore
) -> Callable[[Vector, Vector], Vector]:
    """Wrap f_i so that it maps vectors to a vector."""

    def function(state: Vector, parameters: Vector) -> Vector:
        outputs = layer.function(restore_state(state), restore_parameters(parameters))
        return autodiff.flatten(outputs)[0]

    return function


def _vector_terms(
    mode: AbstractMode, loss: Loss, flattened: Sequence[tuple[Vector, Restore]]
) -> dict[int, Callable[[Vector], Any]]:
    """Bind the first argument of every D_k to x_k and add up those on one state."""
    parts: dict[int, list[Divergence]] = {}
    for index, divergence in mode.terms(loss, len(flattened) - 1):
        parts.setdefault(index, []).append(divergence)

    def bind(index: int) -> Callable[[Vector], Any]:
        state, restore = flattened[index]

        def term(vector: Vector) -> Any:
            pair = restore(state), restore(vector)
            return sum(_scalar(f"divergence on state {index}", D(*pair)) for D in parts[index])

        return term

    return {index: bind(index) for index in parts}


def _scalar(argument: str, value: Any) -> Any:
    """Pass a scalar of the framework through and refuse anything else."""
    if tuple(value.shape) != ():
        raise ValueError(
            f"{argument} must return a scalar, got an array of shape {tuple(value.shape)}; "
            "take its mean over the batch"
        )
    return value
