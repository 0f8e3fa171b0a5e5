"""LLQR as a torch optimizer around SGD, Adam, AdamW and LBFGS."""

import copy
import itertools
import pickle
import warnings

import pytest
import torch
from torch import nn

import llqr.torch
from llqr.config import configure
from llqr.structures import Diagonal, Scalar, Span
from tests.torch import networks as nets
from tests.torch.training import (
    BASES,
    backward,
    batches,
    equal,
    fast,
    loss_fn,
    network,
    snapshot,
    train,
    wrap,
)

EVERY_BASE = pytest.mark.parametrize("base", sorted(BASES))
EVERY_MODE = pytest.mark.parametrize("apply_to", ["gradient", "update"])
# U stays at its start, so the base optimizer must not notice the wrapper.
NEVER = {
    "ema_decay": 0.0,
    "inner_solver": "momentum",
    "solver_options": {"steps": 1, "learning_rate": 1e-300},
}


@EVERY_BASE
@EVERY_MODE
def test_identity_factors_leave_the_base_optimizer_as_it_is(base, apply_to):
    plain, wrapped = network(), network()
    torch.manual_seed(3)
    train(plain, BASES[base](plain.parameters()), batches(), 5)
    random = torch.get_rng_state()
    torch.manual_seed(3)
    train(
        wrapped,
        wrap(wrapped, BASES[base](wrapped.parameters()), fast(apply_to=apply_to, **NEVER)),
        batches(),
        5,
    )
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in snapshot(plain).items():
        # θ − (θ − θ') rounds once in update mode.
        tolerance = 0.0 if apply_to == "gradient" else 1e-15
        torch.testing.assert_close(
            wrapped.get_parameter(name).detach(), value, rtol=tolerance, atol=tolerance
        )


@EVERY_BASE
@EVERY_MODE
def test_training_lowers_the_loss_and_fits_on_time(base, apply_to):
    model = network()
    model[2].p = 0.0
    # Few small inner steps keep U near I, so that every base optimizer stays stable.
    config = fast(
        apply_to=apply_to,
        inner_solver="momentum",
        solver_options={"steps": 5, "learning_rate": 0.1},
    )
    optimizer = wrap(model, BASES[base](model.parameters()), config)
    # One batch throughout: LBFGS is for deterministic functions.
    batch = next(batches(size=30))
    with torch.no_grad():
        before = float(loss_fn(model(batch[0]), batch))
    train(model, optimizer, itertools.repeat(batch), 12)
    with torch.no_grad():
        after = float(loss_fn(model(batch[0]), batch))
    assert after < 0.8 * before
    counters = optimizer.counters()
    assert counters == {"step": 12, "fits": 4, "rejected": 0, "fallbacks": 0, "skipped": 0}
    assert optimizer.last_fit.objective < optimizer.last_fit.objective_start
    assert "taken into use" in str(optimizer.last_fit)


def test_gradient_mode_gives_the_base_the_preconditioned_gradient_and_keeps_the_raw_one():
    model, batch = network(), next(batches())
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.5))
    before = snapshot(model)
    backward(model, batch)
    raw = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters()}
    optimizer.step(batch=batch)
    factors = optimizer.factors()
    for name, parameter in model.named_parameters():
        expected = before[name] - 0.5 * factors[name]["d"] * raw[name][1]
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-14, atol=0)
        assert not torch.equal(factors[name]["d"], torch.ones_like(parameter))
        assert parameter.grad is raw[name][0]
        assert torch.equal(parameter.grad, raw[name][1])


def test_update_mode_preconditions_what_the_base_would_do():
    model, batch = network(), next(batches())
    twin = copy.deepcopy(model)
    optimizer = wrap(model, torch.optim.Adam(model.parameters(), 0.1), fast(apply_to="update"))
    base = torch.optim.Adam(twin.parameters(), 0.1)
    before = snapshot(model)
    torch.manual_seed(2)
    backward(twin, batch)
    base.step()
    torch.manual_seed(2)
    backward(model, batch)
    optimizer.step(batch=batch)
    for name, parameter in model.named_parameters():
        update = before[name] - twin.get_parameter(name).detach()
        expected = before[name] - optimizer.factors()[name]["d"] * update
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-14, atol=1e-16)
        moments = optimizer.state[parameter]["exp_avg"]
        assert torch.equal(moments, base.state[twin.get_parameter(name)]["exp_avg"])


def test_span_of_gradient_and_update_minimises_the_quadratic_model():
    model, batch = network(), next(batches())
    model.eval()
    optimizer = wrap(
        model,
        torch.optim.Adam(model.parameters(), 0.1),
        configure(
            structure=Span(per="parameter"),
            inner_solver="direct",
            apply_to="update",
            damping=1e-3,
            ema_decay=0.0,
        ),
    )
    twin = copy.deepcopy(model)
    backward(twin, batch)
    gradient = {name: p.grad for name, p in twin.named_parameters()}
    base = torch.optim.Adam(twin.parameters(), 0.1)
    base.step()
    before = snapshot(model)
    update = {name: before[name] - p.detach() for name, p in twin.named_parameters()}
    columns = []
    for name in before:
        for source in (gradient, update):
            column = {key: torch.zeros_like(value) for key, value in before.items()}
            columns.append(nets.flatten({**column, name: source[name]}))
    directions = torch.stack(columns, 1)
    jacobian = nets.dense_jacobian(model, lambda m: m(batch[0]))
    at, theta = nets.of_parameters(model, lambda m: m(batch[0]))
    middle = nets.kullback_leibler_hessian(at(theta)) / 16
    curvature = jacobian.T @ middle @ jacobian + 1e-3 * torch.eye(len(theta)).double()
    sizes = torch.linalg.solve(
        directions.T @ curvature @ directions, directions.T @ nets.flatten(gradient)
    )
    backward(model, batch)
    optimizer.step(batch=batch)
    moved = nets.flatten(before) - nets.flatten(dict(model.named_parameters()))
    assert nets.relative_error(moved, directions @ sizes) < 1e-6


def test_lbfgs_closure_sees_raw_gradients_and_base_sees_preconditioned_ones():
    model, batch = network(), next(batches())
    model.eval()
    seen = []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            for _ in range(3):
                loss = closure()
                seen.append(([p.grad.clone() for p in model.parameters()], float(loss.detach())))
            super().step()

    optimizer = wrap(model, Recorder(model.parameters(), lr=0.1))
    calls = []

    def closure():
        # Accumulates on purpose: a preconditioned gradient left behind would show.
        loss = loss_fn(model(batch[0]), batch)
        loss.backward()
        calls.append([p.grad.clone() for p in model.parameters()])
        return loss

    returned = optimizer.step(closure, batch=batch)
    assert len(calls) == 3
    assert float(returned.detach()) == seen[0][1]
    for count, (gradients, _) in enumerate(seen, start=1):
        for position, factors in enumerate(
            optimizer.factors()[name] for name, _ in model.named_parameters()
        ):
            raw = count * calls[0][position]
            torch.testing.assert_close(calls[count - 1][position], raw, rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(
                gradients[position], factors["d"] * raw, rtol=1e-12, atol=1e-15
            )


def test_groups_state_and_defaults_are_the_base_optimizers():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = wrap(model, base)
    assert optimizer.param_groups is base.param_groups
    assert optimizer.state is base.state
    assert optimizer.defaults is base.defaults
    optimizer.param_groups[0]["lr"] = 0.0
    before = snapshot(model)
    train(model, optimizer, batches(), 2)
    assert equal(snapshot(model), before)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert "SGD" not in repr(optimizer) and "lr: 0.0" in repr(optimizer)


SCHEDULERS = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1.0 / (1 + step)),
    "one_cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.5, total_steps=10),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=6),
    "swa": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.01, anneal_epochs=4),
    "chained": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [
            torch.optim.lr_scheduler.LinearLR(o, total_iters=2),
            torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        ]
    ),
}


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_schedulers_act_on_the_base_optimizer(name):
    model, twin = network(), network()
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    base = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    rates = []
    for opt, net in ((optimizer, model), (base, twin)):
        scheduler, data = SCHEDULERS[name](opt), batches()
        own = []
        for _ in range(6):
            train(net, opt, data, 1)
            scheduler.step()
            own.append((opt.param_groups[0]["lr"], opt.param_groups[0]["momentum"]))
        rates.append(own)
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 2
    assert optimizer.base_optimizer.param_groups[0]["lr"] == rates[0][-1][0]


def test_plateau_scheduler_and_averaged_model():
    model = network()
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.1)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        train(model, optimizer, batches(), 1)
        averaged.update_parameters(model)
        plateau.step(1.0)
    assert optimizer.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_accumulated_gradients_equal_one_large_batch():
    models = [network(), network()]
    data = batches(size=8)
    first, second = next(data), next(data)
    joint = (torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]]))
    for model, pieces in zip(models, ([first, second], [joint]), strict=True):
        model.eval()
        optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
        optimizer.zero_grad()
        for piece in pieces:
            (loss_fn(model(piece[0]), piece) / len(pieces)).backward()
        optimizer.step(batch=joint)
    for name, value in snapshot(models[0]).items():
        torch.testing.assert_close(
            models[1].get_parameter(name).detach(), value, rtol=1e-12, atol=1e-14
        )


def test_batch_is_needed_only_when_a_fit_is_due():
    model, data = network(), batches()
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    due = []
    for _ in range(7):
        batch = next(data)
        optimizer.zero_grad()
        backward(model, batch)
        due.append(optimizer.fit_is_due)
        if optimizer.fit_is_due:
            before = snapshot(model)
            with pytest.raises(
                ValueError, match=r"batch must be given when a fit is due .*fit_is_due"
            ):
                optimizer.step()
            assert equal(snapshot(model), before)
            optimizer.step(batch=batch)
        else:
            optimizer.step()
    assert due == [True, False, False, True, False, False, True]


def test_curvature_batch_and_chunks():
    seen = []

    def outputs_fn(model, batch):
        seen.append(len(batch[0]))
        return model(batch[0])

    results = []
    for options in ({"chunk_size": 3}, {}):
        model, batch = network(), next(batches())
        optimizer = wrap(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            fast(curvature_batch_size=7, **options),
            outputs_fn=outputs_fn,
        )
        torch.manual_seed(1)
        backward(model, batch)
        optimizer.step(batch=batch)
        results.append(optimizer.factors()["0.weight"]["d"])
    assert set(seen[:-1]) == {3, 1}
    assert seen[-1] == 7
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


@EVERY_MODE
def test_sparse_gradients_of_embeddings(apply_to):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)).double()
    sparse = copy.deepcopy(dense)
    sparse[0].sparse = True
    batch = (torch.tensor([1, 6, 1, 3]), torch.tensor([0, 1, 2, 0]))
    for model in (dense, sparse):
        optimizer = wrap(model, torch.optim.SGD(model.parameters(), 0.1), fast(apply_to=apply_to))
        backward(model, batch)
        optimizer.step(batch=batch)
    assert sparse[0].weight.grad.is_sparse
    torch.testing.assert_close(sparse[0].weight, dense[0].weight, rtol=1e-13, atol=1e-15)


def test_structures_by_name_and_grafting():
    model = network()
    optimizer = wrap(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        fast(
            structure=lambda name, shape: (
                Scalar(per="parameter") if len(shape) == 1 else Diagonal()
            ),
            grafting="norm",
        ),
    )
    train(model, optimizer, batches(), 3)
    assert set(optimizer.factors()["0.bias"]) == {"s"}
    assert set(optimizer.factors()["0.weight"]) == {"d"}
    before, batch = snapshot(model), next(batches())
    optimizer.zero_grad()
    backward(model, batch)
    optimizer.step(batch=batch)
    for name, parameter in model.named_parameters():
        norm = (before[name] - parameter.detach()).norm()
        torch.testing.assert_close(norm, 0.1 * parameter.grad.norm(), rtol=1e-10, atol=0)


def test_convolutions_fold_with_the_output_axis_first():
    model, batch = nets.case("convolution")
    optimizer = llqr.torch.LLQR(
        torch.optim.SGD(model.parameters(), lr=0.1),
        model,
        nets.cross_entropy,
        fast(structure="kronecker"),
    )
    nets.cross_entropy(model(batch[0]), batch).backward()
    optimizer.step(batch=batch)
    assert tuple(optimizer.factors()["0.weight"]["A"].shape) == (2, 2)
    assert tuple(optimizer.factors()["0.weight"]["B"].shape) == (9, 9)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model_trains_like_the_plain_one(backend):
    results = []
    for compiled in (False, True):
        model = network()
        model[2].p = 0.0
        used = torch.compile(model, backend=backend) if compiled else model
        optimizer = wrap(used, torch.optim.SGD(used.parameters(), lr=0.1))
        train(used, optimizer, batches(), 4)
        assert "0.weight" in optimizer.factors()
        results.append(snapshot(model))
    for name in results[0]:
        torch.testing.assert_close(results[1][name], results[0][name], rtol=1e-10, atol=1e-13)


def test_hooks_and_profiler_see_steps_of_both():
    model = network()
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: calls.append("base"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(model, optimizer, batches(), 1)
    assert calls == ["before", "base", "after"]
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#LLQR.step", "Optimizer.step#SGD.step"} <= names


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_copies_continue_on_their_own(way):
    model = network()
    optimizer = wrap(model, torch.optim.Adam(model.parameters(), lr=0.1))
    torch.optim.lr_scheduler.LambdaLR(optimizer, float)  # patches step
    optimizer.param_groups[0]["lr"] = 0.1
    train(model, optimizer, batches(), 2)
    pair = (model, optimizer)
    twin, other = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert other.model is twin
    for net, opt in ((model, optimizer), (twin, other)):
        torch.manual_seed(8)
        train(net, opt, batches(seed=7), 4)
    assert equal(snapshot(model), snapshot(twin))
    assert other.counters() == optimizer.counters()
    assert other.state is other.base_optimizer.state is not optimizer.state


def test_nothing_is_warned_in_ordinary_training():
    model = network(torch.float32)
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, batches(torch.float32), 4)
