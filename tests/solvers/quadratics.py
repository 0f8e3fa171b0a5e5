"""Random quadratics for solver tests, with every product counted and dense matrices at hand."""

import numpy as np

from llqr.backend import NumpyBackend
from llqr.directions import joined
from llqr.quadratic import QuadraticModel
from llqr.solvers import FactorProblem
from llqr.structures.blocks import make_blocks

BACKEND = NumpyBackend()
SHAPES = {"a.bias": (3,), "a.weight": (3, 2), "b.weight": (2, 2), "scale": (2,)}
SIZE = 3 + 6 + 4 + 2


def flatten(values, shapes=None):
    """Return all arrays as one vector, in the order of their names in ``shapes``."""
    return np.concatenate([np.asarray(values[name]).reshape(-1) for name in shapes or SHAPES])


def unflatten(flat, shapes=None):
    """Undo :func:`flatten`."""
    result, start = {}, 0
    for name, shape in (shapes or SHAPES).items():
        size = int(np.prod(shape))
        result[name] = flat[start : start + size].reshape(shape)
        start += size
    return result


def spd(rng, size=SIZE, condition=100.0):
    """Return a random symmetric matrix with eigenvalues from 1 to ``condition``."""
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    return (basis * np.geomspace(1.0, condition, size)) @ basis.T


class Case:
    """One inner problem, its dense matrices, and how many products were asked for."""

    def __init__(self, rng, structure, matrix=None, *, damping=0.0, scale=1.0, gram=False):
        self.matrix = spd(rng) if matrix is None else matrix
        self.damping = damping
        self.gradient = scale * rng.standard_normal(SIZE)
        self.update = scale * rng.standard_normal(SIZE)
        self.blocks = make_blocks(SHAPES, structure)
        self.products = 0
        self.fails_after = None
        gradient = unflatten(self.gradient)
        self.sources = {
            "input": gradient,
            "gradient": gradient,
            "update": unflatten(self.update),
        }
        self.problem = FactorProblem(
            BACKEND,
            QuadraticModel(
                gradient=gradient,
                curvature_product=self._product,
                damping=damping,
                gram=self._gram if gram else None,
            ),
            self.blocks,
            self.sources,
        )

    def _product(self, direction):
        self.products += 1
        result = self.matrix @ flatten(direction)
        if self.fails_after is not None and self.products > self.fails_after:
            result = result.copy()
            result[self.bad_entry] = self.bad_value
        return unflatten(result)

    def fail(self, after, value=np.nan, entry=0):
        """Make every product after the first ``after`` hold one bad number."""
        self.fails_after, self.bad_value, self.bad_entry = after, value, entry
        return self

    def _gram(self, groups):
        whole = joined(groups)
        self.products += whole.count
        columns = np.stack([flatten(whole.combine(e)) for e in np.eye(whole.count)], axis=1)
        return columns.T @ self.matrix @ columns

    def start(self):
        """Return the factors of the identity."""
        return {
            block.name: block.structure.init(BACKEND, block.block_shape, np.zeros(()))
            for block in self.blocks
        }

    def objective(self, factors):
        """Return m at the step of these factors, from the dense matrix."""
        step = flatten(self.problem.step(self.problem.inputs(), factors))
        full = self.matrix + self.damping * np.eye(SIZE)
        return float(self.gradient @ step + 0.5 * step @ full @ step)

    def directions(self):
        """Return the dense matrix [SIZE, n] of d(−δ)/df at the identity (linear structures)."""
        start, columns = self.start(), []
        inputs = self.problem.inputs()
        for block in self.blocks:
            for name, value in start[block.name].items():
                for index in np.ndindex(value.shape):
                    tangent = {
                        b: {n: np.zeros_like(v) for n, v in own.items()} for b, own in start.items()
                    }
                    tangent[block.name][name][index] = 1.0
                    columns.append(-flatten(self.problem.step_tangent(inputs, start, tangent)))
        return np.stack(columns, axis=1)

    def normal_equations(self):
        """Return H = Dᵀ (C + λI) D and the right-hand side Dᵀ g, for steps −(x₀ + D f)."""
        columns = self.directions()
        full = self.matrix + self.damping * np.eye(SIZE)
        return columns.T @ full @ columns, columns.T @ self.gradient


def vector(case, factors):
    """Return all factors as one vector in the order of :meth:`Case.directions`."""
    return np.concatenate(
        [value.reshape(-1) for b in case.blocks for value in factors[b.name].values()]
    )
