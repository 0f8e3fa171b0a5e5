"""A model whose Hessian is a multiple of the identity per parameter, and fits of scalars to it."""

from llqr.backend import NumpyBackend
from llqr.config import configure
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel

BACKEND = NumpyBackend()
SHAPES = {"a.weight": (2, 3), "a.bias": (3,), "b": ()}
HESSIAN = {"a.weight": 4.0, "a.bias": 0.5, "b": 2.0}  # C, a multiple of the identity per parameter


def gradient(rng):
    return {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}


def model(gradient, hessian=None, **settings):
    hessian = hessian or HESSIAN
    return QuadraticModel(
        gradient=gradient,
        curvature_product=lambda v: {name: hessian[name] * x for name, x in v.items()},
        **settings,
    )


def make(**settings):
    """A solver that finds the minimiser: for C = h I per parameter, the diagonal's is d = 1/h."""
    chosen = {
        "structure": "scalar",
        "structure_options": {"per": "parameter"},
        "inner_solver": "direct",
        "ema_decay": 0.0,
        "update_interval": 1,
    }
    return Preconditioner(BACKEND, configure(**{**chosen, **settings}), SHAPES)


def scalars(state):
    return {name: float(own["s"][0]) for name, own in state.factors.items()}


def fit(preconditioner, state, gradient, **settings):
    return preconditioner.fit(state, model(gradient, **settings), {"input": gradient})
