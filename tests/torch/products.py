"""Networks to take curvature products of, and a product along a fixed direction."""

import llqr.torch
from llqr.curvature import GaussNewton, quadratic_model
from llqr.divergences import Categorical
from tests.torch import networks as nets

NETWORKS = ("mlp", "convolution", "attention", "encoder", "recurrent", "tied")
FISHER = GaussNewton(metric=Categorical())


def product(model, batch, curvature, *, loss_fn=nets.cross_entropy, **options):
    """Return C v along a fixed direction, the direction, and the model's gradient, flat."""
    problem = llqr.torch.linearise(model, loss_fn, batch, curvature=curvature, **options)
    quadratic = quadratic_model(curvature, problem)
    direction = nets.random_direction(model)
    found = nets.flatten(quadratic.curvature_product(direction))
    return found, nets.flatten(direction), nets.flatten(quadratic.gradient)
