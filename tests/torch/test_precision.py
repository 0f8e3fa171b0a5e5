"""Autocast, gradient scaling and low-precision parameters."""

import copy

import pytest
import torch

from tests.torch.training import batches, equal, fast, loss_fn, network, snapshot, train, wrap


def test_autocast_training_fits_in_full_precision():
    factors = []
    for low in (False, True):
        model, batch = network(torch.float32).eval(), next(batches(torch.float32))
        optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            outputs = model(batch[0])
            assert (outputs.dtype == torch.bfloat16) == low
            loss = loss_fn(outputs, batch)
            loss.backward()
            # Also a step inside of autocast must not see it.
            optimizer.step(batch=batch)
        factors.append(optimizer.factors()["0.weight"]["d"])
    assert torch.equal(factors[0], factors[1])


def test_gradient_scaler_steps_and_skips():
    model, data = network(torch.float32), batches(torch.float32)
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    twin = copy.deepcopy(model)
    plain = wrap(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    for step in range(5):
        batch = next(data)
        optimizer.zero_grad()
        plain.zero_grad()
        torch.manual_seed(step)
        scaler.scale(loss_fn(model(batch[0]), batch)).backward()
        torch.manual_seed(step)
        loss_fn(twin(batch[0]), batch).backward()
        if step == 2:
            model[0].weight.grad[0, 0] = float("inf")
            before = snapshot(model)
        scaler.step(optimizer, batch=batch)
        if step == 2:
            assert equal(snapshot(model), before)
        else:
            plain.step(batch=batch)
        scaler.update()
    assert scaler.get_scale() == 2.0
    assert optimizer.counters() == plain.counters()
    assert optimizer.counters()["step"] == 4
    # Scaling by powers of two is exact.
    assert equal(snapshot(model), snapshot(twin))


def test_unscaled_and_clipped_gradients():
    model, batch = network(torch.float32), next(batches(torch.float32))
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_fn(model(batch[0]), batch)).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    before = snapshot(model)
    scaler.step(optimizer, batch=batch)
    for name, parameter in model.named_parameters():
        expected = before[name] - 0.1 * optimizer.factors()[name]["d"] * parameter.grad
        torch.testing.assert_close(parameter.detach(), expected)
        assert float(parameter.grad.norm()) <= 1e-3 * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("apply_to", ["gradient", "update"])
def test_low_precision_parameters_have_single_precision_factors(dtype, apply_to):
    model = network(dtype)
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1), fast(apply_to=apply_to))
    before = snapshot(model)
    train(model, optimizer, batches(dtype), 4)
    assert optimizer.counters()["fits"] == 2
    for name, parameter in model.named_parameters():
        factor = optimizer.factors()[name]["d"]
        assert factor.dtype == torch.float32
        assert not torch.equal(factor, torch.ones_like(factor))
        assert parameter.dtype == parameter.grad.dtype == dtype
        assert not torch.equal(parameter.detach(), before[name])
        assert bool(parameter.isfinite().all())


def test_mixed_precisions_work_in_the_widest():
    model = network(torch.float32)
    model[3].double()

    def outputs_fn(model, batch):
        return model[3](model[:3](batch[0]).double())

    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1), outputs_fn=outputs_fn)
    batch = next(batches(torch.float32))
    loss_fn(outputs_fn(model, batch), batch).backward()
    optimizer.step(batch=batch)
    assert {f["d"].dtype for f in optimizer.factors().values()} == {torch.float64}
    assert model[0].weight.dtype == torch.float32
