"""Which parameters take part in a step: without gradient, tied, frozen, added or cast later."""

import pytest
import torch

import llqr.torch
from llqr.annealing import Annealing
from llqr.multiplier import AdaptiveMultiplier
from tests.torch import networks as nets
from tests.torch.training import (
    backward,
    batches,
    equal,
    fast,
    network,
    snapshot,
    train,
    wrap,
)

EVERY_MODE = pytest.mark.parametrize("apply_to", ["gradient", "update"])


@EVERY_MODE
def test_a_parameter_without_gradient_is_not_stepped_and_counts_as_zero(apply_to):
    model, batch = network(), next(batches())
    # One dense matrix per layer mixes weight and bias: zero input must still not be stepped.
    optimizer = wrap(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5),
        fast(structure="dense", apply_to=apply_to, update_interval=1),
    )
    for _ in range(2):
        backward(model, batch)
        model[0].bias.grad = None
        before = snapshot(model)
        optimizer.step(batch=batch)
        assert torch.equal(model[0].bias.detach(), before["0.bias"])
        assert model[0].bias.grad is None
        assert model[0].bias not in optimizer.state
        assert not torch.equal(model[0].weight.detach(), before["0.weight"])
        optimizer.zero_grad()


@EVERY_MODE
def test_a_step_without_any_gradient_changes_no_parameter(apply_to):
    model, batch = network(), next(batches())
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), 0.1), fast(apply_to=apply_to))
    before = snapshot(model)
    optimizer.step(batch=batch)
    assert equal(snapshot(model), before)


def test_tied_and_frozen_parameters():
    model, batch = nets.case("tied")
    optimizer = llqr.torch.LLQR(
        torch.optim.SGD(model.parameters(), lr=0.1), model, nets.cross_entropy, fast()
    )
    before = snapshot(model)
    nets.cross_entropy(model(batch[0]), batch).backward()
    raw = model.embed.weight.grad.clone()
    optimizer.step(batch=batch)
    assert sorted(optimizer.factors()) == ["embed.weight", "middle.bias", "middle.weight"]
    assert model.readout.weight is model.embed.weight
    expected = before["embed.weight"] - 0.1 * optimizer.factors()["embed.weight"]["d"] * raw
    torch.testing.assert_close(model.embed.weight.detach(), expected, rtol=1e-13, atol=0)
    assert torch.equal(model.frozen.weight, before["frozen.weight"])
    assert "not preconditioned: frozen.weight (4, 4) (frozen)" in optimizer.report()


def test_parameters_outside_of_the_groups_are_left_alone():
    model = network()
    optimizer = wrap(model, torch.optim.SGD(model[3].parameters(), lr=0.1))
    before = snapshot(model)
    train(model, optimizer, batches(), 4)
    assert sorted(optimizer.factors()) == ["3.bias", "3.weight"]
    assert torch.equal(model[0].weight.detach(), before["0.weight"])
    assert "not preconditioned: 0.weight (6, 4) (in no param group)" in optimizer.report()


def test_added_groups_join_with_identity_factors_and_keep_the_others():
    model = network()
    optimizer = wrap(model, torch.optim.SGD(model[3].parameters(), lr=0.1))
    train(model, optimizer, batches(), 2)
    kept = optimizer.factors()["3.weight"]["d"].clone()
    optimizer.add_param_group({"params": (p for p in model[0].parameters()), "lr": 0.5})
    assert [group["lr"] for group in optimizer.base_optimizer.param_groups] == [0.1, 0.5]
    assert torch.equal(optimizer.factors()["3.weight"]["d"], kept)
    assert torch.equal(optimizer.factors()["0.weight"]["d"], torch.ones(6, 4).double())
    assert optimizer.counters()["step"] == 2
    before = snapshot(model)
    train(model, optimizer, batches(), 4)
    assert not torch.equal(model[0].weight.detach(), before["0.weight"])
    assert not torch.equal(optimizer.factors()["0.weight"]["d"], torch.ones(6, 4).double())


def test_a_group_added_to_the_base_and_a_parameter_unfrozen_later_are_noticed():
    model = network()
    model[0].weight.requires_grad_(False)
    base = torch.optim.SGD([*model[3].parameters(), model[0].weight], lr=0.1)
    optimizer = wrap(model, base)
    train(model, optimizer, batches(), 1)
    assert sorted(optimizer.factors()) == ["3.bias", "3.weight"]
    model[0].weight.requires_grad_(True)
    base.add_param_group({"params": [model[0].bias]})
    train(model, optimizer, batches(), 3)
    assert sorted(optimizer.factors()) == ["0.bias", "0.weight", "3.bias", "3.weight"]
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = None
    train(model, optimizer, batches(), 1)
    assert "0.weight" not in optimizer.factors()


def test_a_multiplier_follows_parameters_that_come_and_are_cast():
    model = network()
    optimizer = wrap(
        model,
        torch.optim.SGD(model[3].parameters(), lr=0.1),
        fast(apply_to="update", update_interval=1, multiplier=AdaptiveMultiplier()),
    )
    train(model, optimizer, batches(), 2)
    before = optimizer.state_dict()["llqr"]["multiplier"]
    optimizer.add_param_group({"params": list(model[0].parameters())})
    after = optimizer.state_dict()["llqr"]["multiplier"]
    assert list(after["anchor"]) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    for name in ("3.weight", "3.bias"):
        assert torch.equal(after["anchor"][name], before["anchor"][name])
    for name in ("0.weight", "0.bias"):
        assert torch.equal(after["anchor"][name], model.get_parameter(name))
        assert after["anchor"][name].data_ptr() != model.get_parameter(name).data_ptr()
    assert (after["losses"], after["level"]) == (2, before["level"])
    model.float()
    train(model, optimizer, batches(torch.float32), 1)
    cast = optimizer.state_dict()["llqr"]["multiplier"]
    assert {value.dtype for value in cast["anchor"].values()} == {torch.float32}
    assert cast["losses"] == 3


def test_a_pace_starts_anew_with_parameters_that_come_and_is_cast_with_others():
    model = network()
    rule = Annealing(total_steps=20, solved=0.1, measured=0.1)
    optimizer = wrap(
        model,
        torch.optim.SGD(model[3].parameters(), lr=0.1),
        fast(apply_to="update", annealing=rule),
    )
    train(model, optimizer, batches(), 6)
    before = optimizer.state_dict()["llqr"]["pace"]
    assert before["steps"] == 6 - rule.start
    model.float()
    cast = optimizer.state_dict()["llqr"]["pace"]
    assert cast == {"length": before["length"].float(), "steps": before["steps"]}
    optimizer.add_param_group({"params": list(model[0].parameters())})
    assert optimizer.state_dict()["llqr"]["pace"] == {"length": 0.0, "steps": 0}


def test_a_multiplier_with_slopes_neither_comes_nor_goes_between_steps():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = wrap(model, base, fast(apply_to="update"))
    with pytest.raises(ValueError, match="must keep a multiplier with slopes or the lack of one"):
        optimizer.config = fast(apply_to="update", multiplier=AdaptiveMultiplier())
    optimizer.config = fast(
        apply_to="update", update_interval=7, multiplier=AdaptiveMultiplier(slopes=False)
    )
    assert optimizer.config.update_interval == 7
    train(model, optimizer, batches(), 8)
    assert optimizer.state_dict()["llqr"]["multiplier"]["losses"] == 2


def test_factors_follow_a_model_that_is_cast_during_training():
    model = network()
    optimizer = wrap(model, torch.optim.SGD(model.parameters(), lr=0.1))
    train(model, optimizer, batches(), 2)
    expected = optimizer.factors()["0.weight"]["d"].float()
    model.float()
    train(model, optimizer, batches(torch.float32), 1)
    assert optimizer.factors()["0.weight"]["d"].dtype == torch.float32
    assert torch.equal(optimizer.factors()["0.weight"]["d"], expected)
