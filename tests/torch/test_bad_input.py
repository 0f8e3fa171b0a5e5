"""Every mistake names the argument, the rule, the value and the remedy, and changes nothing."""

import math
import warnings

import pytest
import torch
from torch import nn

import llqr.torch
from llqr.config import configure
from llqr.curvature import GaussNewton, Hessian
from llqr.divergences import Categorical, Gaussian
from llqr.solvers import Status
from llqr.structures import Span
from tests.torch.training import (
    BASES,
    batches,
    equal,
    everything,
    fast,
    loss_fn,
    network,
    same,
    snapshot,
    train,
    wrap,
)

EVERY_MODE = pytest.mark.parametrize("apply_to", ["gradient", "update"])


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_optimizer": 0.1}, r"base_optimizer must be a Optimizer, got float; .*SGD"),
        ({"model": loss_fn}, "model must be a Module, got function"),
        ({"config": "fisher"}, r"config must be a LLQRConfig, got str; .*configure"),
        ({"loss_fn": None}, "loss_fn must be a function, got NoneType"),
        ({"weights_fn": 3}, "weights_fn must be a function, got int"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments, message):
    model = network()
    good = {"base_optimizer": sgd(model), "model": model, "loss_fn": loss_fn, "config": fast()}
    with pytest.raises(TypeError, match=message):
        llqr.torch.LLQR(**{**good, **arguments})


def test_parameters_the_model_does_not_name():
    model = network()
    stray = nn.Parameter(torch.zeros(7))
    with pytest.raises(
        ValueError,
        match=r"parameters of the model only, got one of shape \(7,\) \(group 0, position 4\)",
    ):
        wrap(model, torch.optim.SGD([*model.parameters(), stray], lr=0.1))
    optimizer = wrap(model, sgd(model))
    with pytest.raises(ValueError, match=r"\(group 1, position 0\)"):
        optimizer.add_param_group({"params": [stray]})
    assert len(optimizer.param_groups) == 1
    train(model, optimizer, batches(), 1)


def test_a_model_without_trainable_parameters():
    model = network()
    base = sgd(model)
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameters to precondition"):
        wrap(model, base)
    with pytest.raises(ValueError, match="at least one trainable parameter, got none"):
        llqr.torch.linearise(model, loss_fn, next(batches()), curvature=Hessian())


def test_complex_parameters():
    model = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(
        TypeError, match=r"parameter 'weight' must be a real .* got torch.complex64"
    ):
        wrap(model, sgd(model))


@pytest.mark.parametrize(
    ("directions", "apply_to", "message"),
    [
        (("gradient", "update"), "gradient", r"got 'update'; set apply_to=\"update\""),
        (("gradient", "momentum"), "update", "got 'momentum'; use one of input, update, gradient"),
    ],
)
def test_directions_the_mode_cannot_supply(directions, apply_to, message):
    model = network()
    config = fast(structure=Span(directions=directions), apply_to=apply_to)
    with pytest.raises(ValueError, match=message):
        wrap(model, sgd(model), config)


def fit_error(message, *, apply_to="gradient", error=ValueError, batch=None, **options):
    """Take good steps, then one whose fit must fail with the message and change nothing."""
    model = network()
    base = torch.optim.Adam(model.parameters(), lr=0.1)
    given = {"loss_fn": loss_fn, "config": fast(apply_to=apply_to), **options}
    optimizer = llqr.torch.LLQR(base, model, **given)
    good = next(batches())
    loss_fn(model(good[0]), good).backward()
    before = everything(optimizer)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    with pytest.raises(error, match=message):
        optimizer.step(batch=good if batch is None else batch)
    assert same(everything(optimizer), before)
    assert all(p.grad is gradients[name] for name, p in model.named_parameters())
    assert model.training


@EVERY_MODE
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda outputs, batch: nn.functional.cross_entropy(outputs, batch[1], reduction="none"),
            r"loss_fn result must be a 0-d tensor, got \(16,\); return the mean loss",
        ),
        (lambda outputs, batch: 1.0, "loss_fn result must be a 0-d tensor, got float"),
        (
            lambda outputs, batch: (outputs.sum(), outputs[:, 0]),
            r"normaliser returned by loss_fn must be a 0-d tensor, got \(16,\)",
        ),
        (
            lambda outputs, batch: loss_fn(outputs.detach(), batch),
            "the loss must depend on a trainable parameter",
        ),
    ],
)
def test_losses_that_are_none(loss, message, apply_to):
    fit_error(message, apply_to=apply_to, loss_fn=loss)


@EVERY_MODE
def test_batches_that_are_none(apply_to):
    x, y = next(batches())
    fit_error("at least one example, got size 0", apply_to=apply_to, batch=(x[:0], y[:0]))
    fit_error("outputs_fn must be given .* got dict", apply_to=apply_to, batch={"x": x, "y": y})
    fit_error(r"same leading axis .*\[8, 16\]", apply_to=apply_to, batch=(x, y[:8]))


@EVERY_MODE
@pytest.mark.parametrize(
    ("outputs_fn", "error", "message"),
    [
        (
            lambda m, b: None,
            TypeError,
            "outputs of the model function must be a tensor, got NoneType",
        ),
        (
            lambda m, b: (m(b[0]), {"hidden": [1]}),
            TypeError,
            "intermediate 'hidden' of the model function must be a tensor, got list",
        ),
        (
            lambda m, b: (m(b[0]), {"output": m(b[0])}),
            ValueError,
            'the name "output" is taken',
        ),
    ],
)
def test_model_functions_that_are_none(outputs_fn, error, message, apply_to):
    fit_error(message, apply_to=apply_to, error=error, outputs_fn=outputs_fn)


@EVERY_MODE
def test_metrics_that_do_not_fit_the_outputs(apply_to):
    fit_error(
        r"weights must have a shape that the output's events \(16,\) begin with, got \(3,\)",
        apply_to=apply_to,
        weights_fn=lambda batch: torch.ones(3),
    )
    curvature = GaussNewton(metric=Categorical(), intermediate={"hidden": Gaussian()})
    fit_error(
        "intermediate metric 'hidden'",
        apply_to=apply_to,
        error=(KeyError, ValueError),
        config=fast(curvature=curvature, apply_to=apply_to),
    )


@EVERY_MODE
def test_an_error_of_the_model_during_the_fit_changes_nothing(apply_to):
    def outputs_fn(model, batch):
        raise RuntimeError("from the model")

    fit_error("from the model", apply_to=apply_to, error=RuntimeError, outputs_fn=outputs_fn)


@pytest.mark.parametrize("base", sorted(BASES))
@EVERY_MODE
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_gradient_skips_the_step(base, apply_to, bad):
    model = network()
    optimizer = wrap(model, BASES[base](model.parameters()), fast(apply_to=apply_to))
    train(model, optimizer, batches(), 3)  # a fit is due at the bad step
    batch = next(batches())

    def closure():
        optimizer.zero_grad()
        loss = loss_fn(model(batch[0]), batch)
        loss.backward()
        model[0].bias.grad[1] = bad
        return loss

    closure()
    before = everything(optimizer)
    message = (
        r"the gradient of 0\.bias is not finite, so this step was skipped \(1 skipped so far\)"
    )
    with pytest.warns(llqr.torch.NonFiniteWarning, match=message):
        optimizer.step(closure if base == "lbfgs" else None, batch=batch)
    assert optimizer.skipped == 1
    optimizer.skipped = 0
    assert same(everything(optimizer), before)
    optimizer.skipped = 1
    train(model, optimizer, batches(), 1)
    assert optimizer.counters() == {
        "step": 4,
        "fits": 2,
        "rejected": 0,
        "fallbacks": 0,
        "skipped": 1,
    }


def test_many_non_finite_gradients_are_summed_up():
    model, batch = network(), next(batches())
    optimizer = wrap(model, sgd(model))
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)
    with pytest.warns(
        llqr.torch.NonFiniteWarning, match=r"0\.weight, 0\.bias, 3\.weight and 1 more"
    ):
        optimizer.step(batch=batch)


@EVERY_MODE
def test_a_non_finite_curvature_keeps_the_factors_and_the_base_steps_on(apply_to):
    model = network()
    optimizer = wrap(model, sgd(model), fast(apply_to=apply_to))
    train(model, optimizer, batches(), 3)
    factors = {name: f["d"].clone() for name, f in optimizer.factors().items()}
    x, y = next(batches())
    optimizer.zero_grad()
    loss_fn(model(x), (x, y)).backward()
    before = snapshot(model)
    message = r"a fit met non-finite numbers.*NOT_FINITE.*check the curvature batch"
    with pytest.warns(llqr.torch.NonFiniteWarning, match=message):
        optimizer.step(batch=(x * math.nan, y))
    assert all(torch.equal(f["d"], factors[name]) for name, f in optimizer.factors().items())
    assert not equal(snapshot(model), before)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert optimizer.last_fit.status is Status.NOT_FINITE
    assert not optimizer.last_fit.accepted
    assert optimizer.counters()["rejected"] == 1
    # The fit is tried again at the next step.
    train(model, optimizer, batches(), 1)
    assert optimizer.counters() == {
        "step": 5,
        "fits": 2,
        "rejected": 1,
        "fallbacks": 0,
        "skipped": 0,
    }


@EVERY_MODE
def test_a_preconditioned_value_that_overflows_falls_back_to_the_input(apply_to):
    model, batch = network(torch.float32), next(batches(torch.float32))
    optimizer = wrap(model, sgd(model), fast(apply_to=apply_to, update_interval=10))
    train(model, optimizer, batches(torch.float32), 1)
    optimizer.factors()["0.weight"]["d"].fill_(1e38)
    optimizer.zero_grad()
    loss_fn(model(batch[0]), batch).backward()
    model[0].weight.grad.fill_(100.0)
    before = snapshot(model)
    optimizer.step()
    assert optimizer.counters()["fallbacks"] == 1
    torch.testing.assert_close(model[0].weight.detach(), before["0.weight"] - 10.0)


def test_last_fit_before_any_fit():
    model = network()
    optimizer = wrap(model, sgd(model))
    assert str(optimizer.last_fit) == "no fit yet"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, batches(), 1)
    assert str(optimizer.last_fit).startswith("FINISHED")


def test_too_few_curvature_examples_for_the_processes():
    from unittest.mock import patch

    from llqr.torch import distributed

    with (
        patch.object(distributed, "world_size", return_value=4),
        pytest.raises(ValueError, match=r"at least the number of processes \(4\), got 3"),
    ):
        distributed.share(3)


def test_known_names_are_listed():
    with pytest.raises(ValueError, match="unknown apply_to 'weights'; known: gradient, update"):
        configure(apply_to="weights")
