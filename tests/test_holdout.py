"""The direction that has not seen every second example, against gradients taken by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn

import llqr.jax
import llqr.torch
from llqr.algoperf.planning import make_plan
from llqr.config import configure
from llqr.preconditioner import Preconditioner
from llqr.presets import step_sizes
from llqr.ridge import AdaptiveRidge
from llqr.solvers import ConjugateGradient, DirectSolve

RATE, BETAS, EPSILON = 0.1, (0.9, 0.99), 1e-8


@pytest.fixture
def judged(monkeypatch):
    """Record the sources of every fit by kind, those that are partly unseen, and the half's gradient."""
    found = []
    original = Preconditioner.fit

    def fit(self, state, model, sources, partly_unseen=None, half_gradient=None, parameters=None):
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(model.gradient)):
            given = (sources, partly_unseen, half_gradient)
            jax.debug.callback(lambda *numbers: found.append(numbers), *given)
        else:
            found.append((dict(sources), partly_unseen, half_gradient))
        return original(self, state, model, sources, partly_unseen, half_gradient, parameters)

    monkeypatch.setattr(Preconditioner, "fit", fit)
    return found


def data(rng, examples=6):
    return rng.standard_normal((examples, 3)), rng.standard_normal((examples, 2))


def gradient(weight, x, y):
    """Return ∇ mean ‖W x − y‖² over numbers, W [2, 3]."""
    return 2.0 * (x @ weight.T - y).T @ x / y.size


def adam(g):
    """Return the first update of Adam, θ_old − θ_new."""
    return RATE * g / (np.abs(g) + EPSILON)


def torch_step(weight, batch, config, closure=False):
    model = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(weight))
    base = torch.optim.Adam(model.parameters(), lr=RATE, betas=BETAS, eps=EPSILON)
    optimizer = llqr.torch.LLQR(
        base, model, lambda outputs, b: ((outputs - b[1]) ** 2).mean(), config
    )
    x, y = map(torch.from_numpy, batch)

    def evaluate():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    evaluate()
    optimizer.step(evaluate if closure else None, batch=(x, y))
    return optimizer


def jax_step(weight, batch, config):
    def outputs_fn(params, b):
        return b[0] @ params["weight"].T

    def loss_fn(outputs, b):
        return ((outputs - b[1]) ** 2).mean()

    transformation = llqr.jax.llqr(
        optax.adam(RATE, *BETAS, eps=EPSILON),
        outputs_fn=outputs_fn,
        loss_fn=loss_fn,
        config=config,
    )
    params = {"weight": jnp.asarray(weight)}
    batch = tuple(map(jnp.asarray, batch))
    grads = jax.grad(lambda p: loss_fn(outputs_fn(p, batch), batch))(params)
    transformation.update(grads, transformation.init(params), params, batch=batch)
    jax.effects_barrier()


STEPS = {"torch": torch_step, "jax": jax_step}


@pytest.mark.parametrize("framework", STEPS)
@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 1.0), ({"held_out": 0.25}, 0.25), ({"curvature_batch_size": 4}, 2 / 3)],
)
def test_update_mode(rng, judged, framework, settings, share):
    weight, (x, y) = rng.standard_normal((2, 3)), data(rng)
    STEPS[framework](weight, (x, y), step_sizes("gaussian", **settings))
    ((sources, unseen, half),) = judged
    whole = gradient(weight, x, y)
    cut = settings.get("curvature_batch_size", len(x))
    seen = gradient(weight, x[:cut:2], y[:cut:2])
    expected = whole + share * (seen - gradient(weight, x[:cut], y[:cut]))
    np.testing.assert_allclose(sources["gradient"]["weight"], whole, rtol=1e-12)
    np.testing.assert_allclose(sources["update"]["weight"], adam(whole), rtol=1e-9)
    np.testing.assert_allclose(unseen["gradient"]["weight"], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(unseen["update"]["weight"], adam(expected), rtol=1e-9)
    np.testing.assert_allclose(half["weight"], seen, rtol=1e-12)


@pytest.mark.parametrize("framework", STEPS)
def test_gradient_mode(rng, judged, framework):
    config = configure(
        structure="scalar",
        curvature_options={"likelihood": "gaussian"},
        inner_solver=DirectSolve(relative_ridge=AdaptiveRidge()),
        update_interval=1,
        held_out=1.0,
    )
    weight, (x, y) = rng.standard_normal((2, 3)), data(rng)
    STEPS[framework](weight, (x, y), config)
    ((sources, unseen, half),) = judged
    np.testing.assert_allclose(sources["input"]["weight"], gradient(weight, x, y), rtol=1e-12)
    expected = gradient(weight, x[::2], y[::2])
    np.testing.assert_allclose(unseen["input"]["weight"], expected, rtol=1e-12)
    np.testing.assert_allclose(half["weight"], expected, rtol=1e-12)


@pytest.mark.parametrize("framework", STEPS)
def test_nothing_is_held_out_unless_asked(rng, judged, framework):
    STEPS[framework](rng.standard_normal((2, 3)), data(rng), step_sizes("gaussian", held_out=None))
    assert judged[0][1:] == (None, None)


def test_a_single_example_is_judged_by_itself(rng, judged):
    torch_step(rng.standard_normal((2, 3)), data(rng, 1), step_sizes("gaussian"))
    ((sources, unseen, _half),) = judged
    for kind, value in sources.items():
        torch.testing.assert_close(value, unseen[kind], rtol=1e-12, atol=1e-14)


def test_a_closure_is_not_replayed_on_another_gradient(rng, judged):
    torch_step(rng.standard_normal((2, 3)), data(rng), step_sizes("gaussian"), closure=True)
    assert judged[0][1] is None and judged[0][2] is not None


class Counting(torch.optim.SGD):
    """Counts its steps in its groups and state, as some optimizers do."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            for parameter in group["params"]:
                self.state[parameter].setdefault("steps", torch.zeros(())).add_(1)
        return super().step(closure)


def test_trying_a_step_leaves_no_trace_in_the_base_optimizer(rng):
    model = nn.Linear(3, 2)
    base = Counting(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = llqr.torch.LLQR(
        base, model, lambda outputs, b: ((outputs - b[1]) ** 2).mean(), step_sizes("gaussian")
    )
    x, y = (torch.from_numpy(value).float() for value in data(rng))
    for _ in range(5):
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step(batch=(x, y))
    assert optimizer.counters()["fits"] >= 2
    assert base.param_groups[0]["steps"] == 5
    assert all(base.state[parameter]["steps"] == 5 for parameter in model.parameters())


class CentredOverTheBatch(nn.BatchNorm1d):
    """Of another's making, so that among several processes it might ask them all."""


@pytest.mark.parametrize("make", [nn.BatchNorm1d, CentredOverTheBatch])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
def test_what_the_curvature_pass_normalises_otherwise_than_training_is_not_held_out(
    rng, judged, monkeypatch, make, tracks, processes
):
    monkeypatch.setattr("llqr.torch.passes.world_size", lambda: processes)
    norm = make(4, track_running_stats=tracks)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2))
    optimizer = llqr.torch.LLQR(
        torch.optim.Adam(model.parameters()),
        model,
        lambda outputs, b: ((outputs - b[1]) ** 2).mean(),
        step_sizes("gaussian"),
    )
    x, y = (torch.from_numpy(value).float() for value in data(rng))
    ((model(x) - y) ** 2).mean().backward()
    optimizer.step(batch=(x, y))
    otherwise = tracks and processes > 1 and make is CentredOverTheBatch
    assert (judged[0][1] is None) is (judged[0][2] is None) is otherwise


def test_submissions_hold_out_what_they_can():
    sizes = {"output_shape": (512, 10), "event_axes": 1, "example_bytes": 4, "products": 10}
    plan = make_plan(examples=512, **sizes)
    # The share of the training batch that the curvature batch is.
    assert (plan.examples, plan.held_out) == (128, 0.25)
    assert make_plan(examples=512, **sizes, sliceable=False).held_out is None


@pytest.mark.parametrize("value", [0.0, 1.5, -1.0, np.nan, "half", True])
def test_the_share_is_validated(value):
    with pytest.raises(ValueError, match=r"held_out must be None or a share in \(0, 1\]"):
        step_sizes("gaussian", held_out=value)


def test_a_solver_that_does_not_look_at_losses_is_refused():
    with pytest.raises(ValueError, match="held_out needs a solver that judges by the loss"):
        configure(inner_solver=ConjugateGradient(), held_out=1.0)
    assert step_sizes("gaussian", inner_solver=DirectSolve()).held_out is None
