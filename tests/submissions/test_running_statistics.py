"""Running statistics at evaluation: of the present parameters, and no noisier than they have to be."""

import copy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen
from torch import nn

from llqr.algoperf.batches import halves
from llqr.algoperf.jax_running_statistics import brought_to_present
from llqr.algoperf.running_statistics import at_present
from llqr.algoperf.torch_running_statistics import bring_to_present
from llqr.backend import NumpyBackend
from llqr.jax.backend import JaxBackend
from llqr.torch.backend import TorchBackend
from tests.submissions import tiny
from tests.submissions.test_training import SUBMISSIONS, load

FRAMEWORKS = {
    "numpy": (NumpyBackend(), np.asarray),
    "jax": (JaxBackend(), jnp.asarray),
    "pytorch": (TorchBackend(), torch.as_tensor),
}


def combined(running, first, second):
    """The formula, written once more."""
    fresh = (first + second) / 2
    noise, distance = np.sum((first - second) ** 2) / 4, np.sum((fresh - running) ** 2)
    return running + max(0.0, 1 - noise / distance) * (fresh - running)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_formula_in_every_framework(framework):
    backend, array = FRAMEWORKS[framework]
    rng = np.random.default_rng(0)
    running, first, second = rng.normal(size=(3, 20))
    given = array(running), (array(first + 3.0), array(second + 3.0))
    expected = combined(running, first + 3.0, second + 3.0)
    np.testing.assert_allclose(at_present(backend, *given), expected, rtol=1e-14)
    # Halves that agree are free of noise, halves that differ by more than the way to them are nothing else.
    same = array(running), (array(first), array(first))
    np.testing.assert_allclose(at_present(backend, *same), first, rtol=1e-13)
    apart = array(running), (array(running + 2.0), array(running - 1.9))
    np.testing.assert_array_equal(at_present(backend, *apart), running)
    rest = array(running), (array(running), array(running))
    np.testing.assert_array_equal(at_present(backend, *rest), running)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_statistics_that_are_not_finite_change_nothing(framework, bad):
    backend, array = FRAMEWORKS[framework]
    running, broken = np.ones(3), np.array([0.0, bad, 0.0])
    for pair in ((broken, running), (running, broken), (broken, broken)):
        with np.errstate(invalid="ignore"):
            found = at_present(backend, array(running), tuple(map(array, pair)))
        np.testing.assert_array_equal(found, running)


@pytest.mark.parametrize("lag", [0.0, 1.0, 30.0])
def test_it_is_nearly_as_good_as_the_better_of_both(lag):
    """Squared errors over many draws, in units of a batch's noise: running ones at rest, and behind."""
    rng = np.random.default_rng(0)
    channels, kept = 32, 0.9
    errors = np.zeros(3)
    for _ in range(400):
        truth = rng.normal(size=channels)
        # What a mean over the batches of the past has of their noise.
        noise = np.sqrt((1 - kept) / (1 + kept)) * rng.normal(size=channels)
        running = truth + lag * rng.normal(size=channels) + noise
        first, second = truth + np.sqrt(2) * rng.normal(size=(2, channels))
        found = at_present(NumpyBackend(), running, (first, second))
        for index, value in enumerate((found, running, (first + second) / 2)):
            errors[index] += np.mean((value - truth) ** 2) / 400
    own, better, worse = errors[0], *np.sort(errors[1:])
    assert own < better + 0.1 * (worse - better) if lag != 1.0 else own < better


def test_halves_are_taken_from_every_shard():
    batch = {"inputs": np.arange(12), "more": (np.arange(24).reshape(12, 2),), "rest": None}
    even, odd = halves(batch, 12, shards=2)
    # Six a shard.
    assert even["inputs"].tolist() == [0, 2, 4, 6, 8, 10]
    assert odd["inputs"].tolist() == [1, 3, 5, 7, 9, 11]
    assert even["more"][0].shape == (6, 2) and even["rest"] is None
    # One of five is left over, of every shard.
    even, odd = halves({"inputs": np.arange(10)}, 10, shards=2)
    assert even["inputs"].tolist() == [0, 2, 5, 7] and odd["inputs"].tolist() == [1, 3, 6, 8]


class Normalised(nn.Module):
    """Layers of all kinds that keep statistics, dropout between them, and one layer that is frozen."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(2, momentum=0.05)
        self.convolution = nn.Conv2d(2, 3, 3)
        self.second = nn.InstanceNorm2d(3, track_running_stats=True)
        self.dropout = nn.Dropout(0.5)
        self.third = nn.BatchNorm1d(3, affine=False)
        self.frozen = nn.BatchNorm1d(3)
        self.cumulative = nn.BatchNorm1d(3, momentum=None)
        self.plain = nn.BatchNorm1d(3, track_running_stats=False)
        self.double()

    def forward(self, x):
        hidden = self.dropout(self.second(torch.relu(self.convolution(self.first(x)))))
        return self.cumulative(self.plain(self.frozen(self.third(hidden.mean((2, 3))))))


def torch_case():
    torch.manual_seed(0)
    model = Normalised().train()
    model.frozen.eval()
    inputs = 2.0 + 3.0 * torch.randn(40, 2, 6, 6, dtype=torch.float64)
    model(inputs)
    with torch.no_grad():
        model.convolution.weight.mul_(5.0)
    return model, {"inputs": inputs, "targets": torch.zeros(40)}


def run_on(module, batch):
    module(batch["inputs"])


def test_torch_layers_get_the_statistics_of_the_batch():
    model, batch = torch_case()
    before = copy.deepcopy(model.state_dict())
    bring_to_present(model, run_on, batch)
    after = model.state_dict()
    followed = [
        f"{layer}.{statistic}"
        for layer in ("first", "second", "third")
        for statistic in ("running_mean", "running_var")
    ]
    for name, value in after.items():
        assert torch.equal(value, before[name]) == (name not in followed), name
    # torch's own way to statistics of some data, on either half and without dropout.
    of_halves = []
    for start in (0, 1):
        own = copy.deepcopy(model)
        own.dropout.p = 0.0
        torch.optim.swa_utils.update_bn([batch["inputs"][start::2]], own)
        # It knows no instance normalisation.
        own.second.reset_running_stats()
        own.second.momentum = 1.0
        own(batch["inputs"][start::2])
        of_halves.append(own.state_dict())
    for name in followed:
        first, second = (half[name].numpy() for half in of_halves)
        expected = combined(before[name].numpy(), first, second)
        np.testing.assert_allclose(after[name].numpy(), expected, rtol=1e-10)
        # It went nearly all the way.
        fresh, way = (first + second) / 2, np.linalg.norm(expected - before[name].numpy())
        assert np.linalg.norm(expected - fresh) < 0.1 * way


def test_torch_keeps_modes_momenta_and_random_numbers():
    model, batch = torch_case()
    modes = [module.training for module in model.modules()]
    momenta = [getattr(module, "momentum", None) for module in model.modules()]
    buffers = {name: id(buffer) for name, buffer in model.named_buffers()}
    parameters = [value.detach().clone() for value in model.parameters()]
    generator = torch.get_rng_state()

    def failing(module, half):
        module(half["inputs"])
        torch.rand(3)
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        bring_to_present(model, failing, batch)
    bring_to_present(model, run_on, batch)
    assert torch.equal(torch.get_rng_state(), generator)
    assert [module.training for module in model.modules()] == modes
    assert [getattr(module, "momentum", None) for module in model.modules()] == momenta
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == buffers
    for old, new in zip(parameters, model.parameters(), strict=True):
        assert torch.equal(old, new) and new.grad is None


def test_a_momentum_may_be_a_tensor():
    model, batch = torch_case()
    other = copy.deepcopy(model)
    other.first.momentum = torch.tensor(0.05, dtype=torch.float64)
    bring_to_present(model, run_on, batch)
    bring_to_present(other, run_on, batch)
    assert torch.equal(model.first.running_mean, other.first.running_mean)
    assert other.first.momentum.item() == 0.05


@pytest.mark.parametrize("examples", [1, 3])
def test_torch_leaves_statistics_alone_where_there_is_nothing_to_halve(examples):
    model, batch = torch_case()
    before = copy.deepcopy(model.state_dict())
    few = {key: value[:examples] for key, value in batch.items()}
    bring_to_present(model, run_on, few)
    bring_to_present(model, run_on, batch | {"graph": torch.zeros(7)})
    bring_to_present(model.eval(), run_on, batch)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


class FlaxNormalised(linen.Module):
    @linen.compact
    def __call__(self, x):
        hidden = linen.BatchNorm(use_running_average=False, momentum=0.95, dtype=jnp.float64)(x)
        hidden = jnp.tanh(linen.Dense(3, dtype=jnp.float64)(hidden))
        return linen.BatchNorm(use_running_average=False, momentum=0.8, dtype=jnp.float64)(hidden)


def flax_case():
    inputs = 2.0 + 3.0 * np.random.default_rng(0).normal(size=(40, 4))
    model = FlaxNormalised()
    variables = model.init(jax.random.PRNGKey(0), inputs)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables["params"])
    state = {"batch_stats": variables["batch_stats"], "steps": jnp.array(3)}
    state = jax.tree.map(lambda leaf: leaf if leaf.ndim == 0 else leaf.astype(jnp.float64), state)

    def forward(own, batch):
        collections = {"params": params, "batch_stats": own["batch_stats"]}
        _, changed = model.apply(collections, batch["inputs"], mutable=["batch_stats"])
        return {**own, **changed}

    return state, forward, {"inputs": inputs, "targets": np.zeros(40)}


def test_jax_states_get_the_statistics_of_the_batch():
    state, forward, batch = flax_case()
    found = brought_to_present(state, forward, batch)
    assert int(found["steps"]) == 3
    # What training on a half again and again leads to.
    of_halves = []
    for start in (0, 1):
        own, half = state, {key: value[start::2] for key, value in batch.items()}
        step = jax.jit(forward)
        for _ in range(800):
            own = step(own, half)
        of_halves.append(own["batch_stats"])
    first = batch["inputs"][::2]
    layer = of_halves[0]["BatchNorm_0"]
    np.testing.assert_allclose(layer["mean"], first.mean(0), rtol=1e-10)
    np.testing.assert_allclose(layer["var"], first.var(0), rtol=1e-10)
    expected = jax.tree.map(combined, state["batch_stats"], *of_halves)
    for own, other in zip(
        jax.tree.leaves(found["batch_stats"]), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(own, other, rtol=1e-9)


def test_jax_leaves_states_alone_that_do_not_follow():
    state, forward, batch = flax_case()
    few = {key: value[:3] for key, value in batch.items()}
    others = [
        (forward, few),
        (forward, batch | {"graph": np.zeros(7)}),
        (lambda own, piece: {"batch_stats": own["batch_stats"]}, batch),  # another structure
        (lambda own, piece: own, batch),  # statistics that stay
        (lambda own, piece: jax.tree.map(lambda leaf: leaf[None], own), batch),  # other shapes
        (lambda own, piece: jax.tree.map(lambda leaf: 2 * leaf, own), batch),  # that grow
    ]
    for function, given in others:
        found = brought_to_present(state, function, given)
        for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(own, other)


def evaluated(ruleset, framework, steps, kind="softmax", statistics=True):
    """Running means, before and after ``prepare_for_eval``, of a run of a tiny workload."""
    submission = load(ruleset, framework)
    workload = (tiny.JaxTiny if framework == "jax" else tiny.TorchTiny)(kind, statistics=statistics)
    point = types.SimpleNamespace(
        **{
            "structure": "span",
            "learning_rate": 1.0,
            "one_minus_beta1": 0.1,
            "beta2": 0.99,
            "weight_decay": 0.0,
            "label_smoothing": 0.0,
            "dropout_rate": 0.0,
            "warmup_factor": 0.0,
            "output_metric": 0.01,
            "update_interval": 5,
        }
    )
    params, model_state = workload.init_model_fn()
    common = {
        "workload": workload,
        "current_params_types": {},
        "hyperparameters": point,
        "loss_type": workload.loss_type,
        "eval_results": [],
        "global_step": 1,
        "rng": jax.random.PRNGKey(0),
    }
    state = submission.init_optimizer_state(workload, params, model_state, point, None)
    for step in range(steps):
        batch = tiny.make_batch(kind, 64, seed=step)
        state, params, model_state = submission.update_params(
            current_param_container=params,
            model_state=model_state,
            batch=batch if framework == "jax" else tiny.to_torch(batch),
            optimizer_state=state,
            **common,
        )

    def running():
        if framework == "pytorch":
            return None if params.running_mean is None else params.running_mean.numpy().copy()
        return np.asarray(model_state["mean"]) if model_state else None

    before = running()
    found = []
    for _ in range(2):
        state, params, model_state = submission.prepare_for_eval(
            current_param_container=params, model_state=model_state, optimizer_state=state, **common
        )
        found.append(running())
        if framework == "pytorch":
            params.eval()
    # Once more without a step between is the same.
    np.testing.assert_array_equal(*found)
    return before, found[0]


@pytest.mark.parametrize(("ruleset", "framework"), SUBMISSIONS)
def test_submissions_evaluate_with_present_statistics(ruleset, framework):
    old, new = evaluated(ruleset, framework, 4)
    # Four steps with a momentum of 0.1 from zero: two thirds of the way are left.
    assert np.linalg.norm(new) > 2.0 * np.linalg.norm(old)


def test_both_frameworks_evaluate_with_the_same_statistics():
    # The other ruleset has dropout, hence random numbers of each framework.
    means = evaluated("external_tuning", "jax", 4)
    for own, other in zip(means, evaluated("external_tuning", "pytorch", 4), strict=True):
        np.testing.assert_allclose(own, other, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("framework", ["jax", "pytorch"])
def test_without_a_last_batch_or_statistics_nothing_changes(framework):
    old, new = evaluated("self_tuning", framework, 0)
    np.testing.assert_array_equal(old, new)
    assert evaluated("self_tuning", framework, 1, statistics=False) == (None, None)
    old, new = evaluated("self_tuning", framework, 1, kind="graph")
    np.testing.assert_array_equal(old, new)
