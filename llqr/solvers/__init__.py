"""Inner solvers: they fit the factors of all blocks on the quadratic model."""

from llqr.solvers.base import AbstractInnerSolver, FactorProblem, SolverResult, Status
from llqr.solvers.conjugate_gradient import ConjugateGradient
from llqr.solvers.direct import DirectSolve
from llqr.solvers.first_order import Adam, GradientDescent

__all__ = [
    "AbstractInnerSolver",
    "Adam",
    "ConjugateGradient",
    "DirectSolve",
    "FactorProblem",
    "GradientDescent",
    "SolverResult",
    "Status",
]
