"""Ablations change what they say, and nothing else."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import ablations, submissions
from llqr.curvature import Hessian
from llqr.solvers import ConjugateGradient, GradientDescent
from workloads_extra import registry, rng

POINT = {
    "learning_rate": 0.01,
    "one_minus_beta1": 0.1,
    "beta2": 0.99,
    "weight_decay": 1e-3,
    "warmup_factor": 0.05,
}
NAMES = ["dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias"]


def config(name):
    workload = SimpleNamespace(step_hint=100)
    return ablations.variant(workload, SimpleNamespace(**POINT, variant=name)).config(NAMES)


def test_each_variant_differs_from_the_fitted_one_in_one_setting():
    base = vars(config("fitted"))
    assert isinstance(base["inner_solver"], ConjugateGradient)
    changed = {
        name: {key for key, value in vars(config(name)).items() if value != base[key]}
        for name in ablations.CHANGES
    }
    assert changed["fitted"] == set()
    for name in ("identity", "published_solver", "longer"):
        assert changed[name] == {"inner_solver"}
    assert changed["per_layer"] == changed["newton"] == changed["gauss_newton"] == {"curvature"}
    assert changed["diagonal"] == changed["ekfac"] == {"structure"}
    assert changed["gradient"] == {"apply_to"}
    assert changed["warm_start"] == {"warm_start"} and changed["ungrafted"] == {"grafting"}
    assert config("newton").curvature == Hessian()
    assert isinstance(config("published_solver").inner_solver, GradientDescent)


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"fitted.*identity"):
        config("none")


class Matrix:
    """A curvature that is a given symmetric matrix."""

    divides_by_normaliser = True
    output_metric = None

    def __init__(self, matrix, shapes):
        self.matrix, self.shapes = matrix, shapes

    def chunk_product(self, backend, linearisation, direction):
        flat = np.concatenate([direction[name].ravel() for name in self.shapes])
        product, found, start = self.matrix @ flat, {}, 0
        for name, shape in self.shapes.items():
            size = int(np.prod(shape))
            found[name] = product[start : start + size].reshape(shape)
            start += size
        return found


def test_per_layer_keeps_the_diagonal_blocks_of_layers_and_nothing_else(rng):
    shapes = dict(zip(NAMES, [(2, 3), (3,), (3, 2), (2,)], strict=True))
    half = rng.standard_normal((17, 17))
    whole = half @ half.T
    direction = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    product = ablations.PerLayer(whole=Matrix(whole, shapes)).chunk_product(None, None, direction)
    # Nine parameters in the first layer, eight in the second.
    blocks = whole.copy()
    blocks[:9, 9:] = blocks[9:, :9] = 0.0
    expected = blocks @ np.concatenate([direction[name].ravel() for name in shapes])
    found = np.concatenate([product[name].ravel() for name in shapes])
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def train(module, variant, steps=3):
    """Return parameters after some steps on digits in torch."""
    workload = registry.make_workload("digits", "pytorch")
    point = SimpleNamespace(**POINT, variant=variant)
    keys = rng.split(rng.make_rng("pytorch", 0), 4)
    queue = workload._build_input_queue(keys[0], "train", "", 32)
    params, state = workload.init_model_fn(keys[1])
    optimizer = module.init_optimizer_state(workload, params, state, point, keys[2])
    for step in range(steps):
        optimizer, params, state = module.update_params(
            workload,
            params,
            None,
            state,
            point,
            next(queue),
            workload.loss_type,
            optimizer,
            [],
            step,
            keys[3],
        )
    return {name: value.detach().numpy().copy() for name, value in params.named_parameters()}


def test_variants_train_and_identity_is_adamw():
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    import torch

    module = __import__("submissions.ablations.llqr_variant_pytorch.submission", fromlist=["x"])
    found = {name: train(module, name) for name in ("fitted", "identity", "per_layer", "newton")}
    for name in ("identity", "per_layer", "newton"):
        assert any(not np.array_equal(found[name][k], found["fitted"][k]) for k in found[name])
        assert all(np.isfinite(value).all() for value in found[name].values())
    recipe = ablations.variant(
        registry.make_workload("digits", "pytorch"), SimpleNamespace(**POINT, variant="identity")
    )
    workload = registry.make_workload("digits", "pytorch")
    keys = rng.split(rng.make_rng("pytorch", 0), 4)
    queue = workload._build_input_queue(keys[0], "train", "", 32)
    model, _ = workload.init_model_fn(keys[1])
    adam = torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.99), eps=recipe.epsilon)
    for step in range(3):
        batch = next(queue)
        adam.zero_grad()
        loss = workload.loss_fn(batch["targets"], model(batch["inputs"]))
        (loss["summed"] / loss["n_valid_examples"]).backward()
        before = [value.detach().clone() for value in model.parameters()]
        adam.step()
        rate, decay = float(recipe.schedule(step, np)), float(recipe.decay(step, np, 1.0))
        with torch.no_grad():
            for value, old in zip(model.parameters(), before, strict=True):
                value.copy_(old + rate * (value - old) - rate * decay * old)
    for name, value in model.named_parameters():
        np.testing.assert_allclose(found["identity"][name], value.detach(), rtol=1e-4, atol=1e-6)


def test_every_variant_has_a_space_that_names_it():
    folder = submissions.ROOT / "tuning_search_spaces/ablations"
    spaces = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert spaces.keys() == ablations.CHANGES.keys()
    for name, space in spaces.items():
        assert space.pop("variant") == {"feasible_points": [name]}
    assert len({json.dumps(space) for space in spaces.values()}) == 1
