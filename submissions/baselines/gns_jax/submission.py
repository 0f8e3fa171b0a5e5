"""Relative in JAX: Newton steps damped by the gradient's norm, on the batch of every step."""

from typing import Any

from llqr.curvature import AbstractCurvature, GaussNewton, Hessian, LossHessian
from llqr.damping import GradientNormDamping
from llqr.relatives import GradientNormalizedNewton
from submissions.baselines.wiring.newton_jax import JaxNewton


def make(hyperparameters: Any) -> tuple[AbstractCurvature, GradientNormalizedNewton]:
    """Return curvature and method."""
    hessian = getattr(hyperparameters, "curvature", "gauss_newton") == "hessian"
    method = GradientNormalizedNewton(
        damping=GradientNormDamping(initial=getattr(hyperparameters, "smoothness", 1.0)),
        solver_steps=10,
        tolerance=0.01,
        trials=8,
    )
    return Hessian() if hessian else GaussNewton(metric=LossHessian()), method


_baseline = JaxNewton(make)

get_batch_size = _baseline.get_batch_size
init_optimizer_state = _baseline.init_optimizer_state
update_params = _baseline.update_params
prepare_for_eval = _baseline.prepare_for_eval
data_selection = _baseline.data_selection
