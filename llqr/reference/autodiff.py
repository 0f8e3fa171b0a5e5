"""What the exact reference needs of a framework."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

from llqr.reference._checks import Array

Vector = Any  # 1-d float64 array of the framework
Tree = Any  # array, or nested dictionaries and sequences of arrays
Restore = Callable[[Vector], Tree]


class AbstractAutodiff(abc.ABC):
    """What a framework provides, in float64.

    Laws: `restore(vector)` of `flatten(tree)` is the tree up to dtype, `flatten` and `restore` can
    be differentiated, and leaves that are not floating point are constants of width 0.
    """

    @abc.abstractmethod
    def flatten(self, tree: Tree) -> tuple[Vector, Restore]:
        """Return the floating-point leaves as one vector, and the inverse."""

    @abc.abstractmethod
    def concatenate(self, vectors: Sequence[Vector]) -> Vector:
        """Join vectors."""

    @abc.abstractmethod
    def gradient(self, function: Callable[[Vector], Any], point: Vector) -> Array:
        """Differentiate a scalar function: [n] in numpy."""

    @abc.abstractmethod
    def jacobian(self, function: Callable[[Vector], Vector], point: Vector) -> Array:
        """Differentiate a vector function: [m, n] in numpy."""

    @abc.abstractmethod
    def hessian(self, function: Callable[[Vector], Any], point: Vector) -> Array:
        """Differentiate a scalar function twice: [n, n] in numpy."""

    @abc.abstractmethod
    def from_numpy(self, array: Array, like: Vector) -> Vector:
        """Convert a numpy array to the framework, onto the device of `like`."""
