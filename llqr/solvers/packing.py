"""The inner problem with factors, steps and gradients as single vectors.

What a solver does with its iterates (inner products, steps along a line, a choice between two points) is the
same for every factor. On a network of two hundred tensors it would be thousands of small operations per
iteration, each of which costs a launch, or a kernel to compile; on one vector it is a dozen. Only the
structures and the network see single arrays.
"""

from __future__ import annotations

from math import prod

from llqr.backend import Array, Backend, Tensors
from llqr.quadratic import QuadraticModel
from llqr.solvers.problem import FactorProblem
from llqr.structures.blocks import BlockFactors

_VECTOR = "vector"


def dot(backend: Backend, x: Array, y: Array) -> Array:
    """Return ⟨x, y⟩ of two vectors, a 0-d array; no product of them is stored."""
    return backend.dots([x], [y])[0]


class Packing:
    """Joins named arrays into one vector and parts it again.

    Args:
        backend: array operations.
        like: arrays of the names, shapes and dtypes to expect.
    """

    def __init__(self, backend: Backend, like: Tensors) -> None:
        self._backend = backend
        self._like = dict(like)

    def join(self, values: Tensors) -> Array:
        """Return all entries of arrays of these names as one vector [n]."""
        return self._backend.concatenate([values[name].reshape((-1,)) for name in self._like])

    def split(self, vector: Array) -> Tensors:
        """Undo :meth:`join`."""
        result, start = {}, 0
        for name, like in self._like.items():
            size = prod(like.shape)
            part = vector[start : start + size].reshape(like.shape)
            result[name] = self._backend.asarray(part, like)
            start += size
        return result


class FactorPacking:
    """Joins the factors of all blocks into one vector and parts it again.

    Args:
        backend: array operations.
        like: factors of the names, shapes and dtypes to expect.
    """

    def __init__(self, backend: Backend, like: BlockFactors) -> None:
        self._places = [(block, name) for block, own in like.items() for name in own]
        self._packing = Packing(backend, self._flat(like))

    def join(self, factors: BlockFactors) -> Array:
        """Return all entries of factors of this form as one vector [n]."""
        return self._packing.join(self._flat(factors))

    def split(self, vector: Array) -> BlockFactors:
        """Undo :meth:`join`."""
        result: BlockFactors = {block: {} for block, _ in self._places}
        flat = self._packing.split(vector)
        for index, (block, name) in enumerate(self._places):
            result[block][name] = flat[str(index)]
        return result

    def _flat(self, factors: BlockFactors) -> Tensors:
        return {
            str(index): factors[block][name] for index, (block, name) in enumerate(self._places)
        }


class PackedProblem:
    """m(−U(f) x) as a function of one vector f [n], with steps and their gradients as vectors [p].

    Args:
        problem: the problem to pack.
        factors: factors of the form to expect.
    """

    def __init__(self, problem: FactorProblem, factors: BlockFactors) -> None:
        self.backend = problem.backend
        self.linear_in_factors = problem.linear_in_factors
        self.bounded = problem.bounded
        self._problem, self._inputs = problem, problem.inputs()
        self._factors = FactorPacking(problem.backend, factors)
        self._parameters = Packing(problem.backend, problem.model.gradient)
        self._model = QuadraticModel(
            gradient={_VECTOR: self._parameters.join(problem.model.gradient)},
            curvature_product=self._curvature_product,
            damping=problem.model.damping,
        )
        self.join, self.split = self._factors.join, self._factors.split

    @property
    def loss_gradient(self) -> Array:
        """The gradient g of the loss, [p]."""
        return self._model.gradient[_VECTOR]

    def step(self, factors: Array) -> Array:
        """Return δ = −U(f) x, [p]."""
        return self._parameters.join(self._problem.step(self._inputs, self.split(factors)))

    def step_tangent(self, factors: Array, direction: Array) -> Array:
        """Return the derivative of δ in the factors along a direction [n], [p]."""
        at, along = self.split(factors), self.split(direction)
        return self._parameters.join(self._problem.step_tangent(self._inputs, at, along))

    def product(self, vector: Array) -> Array:
        """Return (C + λI) v: one curvature-vector product."""
        return self._model.product({_VECTOR: vector})[_VECTOR]

    def value(self, step: Array, residual: Array) -> Array:
        """Return m(δ) from the residual r at δ: no further product."""
        return self._model.value({_VECTOR: step}, {_VECTOR: residual})

    def gradient(self, factors: Array, residual: Array) -> Array:
        """Return the gradient of m in the factors, [n], from its gradient r in the step."""
        at, cotangent = self.split(factors), self._parameters.split(residual)
        return self.join(self._problem.gradient(self._inputs, at, cotangent))

    def project(self, factors: Array) -> Array:
        """Return the nearest admissible factors."""
        return self.join(self._problem.project(self.split(factors)))

    def bad_block(self, factors: Array) -> Array:
        """Return the first block whose part of a vector [n] is not finite, −1 if there is none."""
        return self._problem.bad_block(self.split(factors))

    def _curvature_product(self, vector: Tensors) -> Tensors:
        product = self._problem.model.curvature_product(self._parameters.split(vector[_VECTOR]))
        return {_VECTOR: self._parameters.join(product)}
