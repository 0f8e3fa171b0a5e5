"""Inner solvers: they fit the factors of all blocks on the quadratic model."""

from llqr.solvers.adam import Adam
from llqr.solvers.base import AbstractInnerSolver, SolverResult, Status
from llqr.solvers.conjugate_gradient import ConjugateGradient
from llqr.solvers.direct import DirectSolve
from llqr.solvers.gradient_descent import GradientDescent
from llqr.solvers.problem import FactorProblem

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
