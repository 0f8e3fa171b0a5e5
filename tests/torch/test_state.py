"""state_dict: exact round trips, other dtypes, and states of other configurations."""

import copy
import io

import pytest
import torch

from llqr.annealing import Annealing
from llqr.multiplier import AdaptiveMultiplier
from tests.torch.training import (
    BASES,
    batches,
    equal,
    everything,
    fast,
    network,
    same,
    snapshot,
    train,
    wrap,
)

EVERY_BASE = pytest.mark.parametrize("base", sorted(BASES))


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def build(base="adam", dtype=torch.float64, **settings):
    model = network(dtype)
    return model, wrap(model, BASES[base](model.parameters()), fast(**settings))


@EVERY_BASE
@pytest.mark.parametrize("apply_to", ["gradient", "update"])
@pytest.mark.parametrize("structure", ["diagonal", "kronecker", "low_rank"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(base, apply_to, structure):
    check_resumed(base, apply_to=apply_to, structure=structure, damping="gradient_norm")


@pytest.mark.parametrize("apply_to", ["gradient", "update"])
def test_a_run_resumed_before_its_annealing_equals_an_uninterrupted_one(apply_to):
    rule = Annealing(total_steps=10, solved=0.5, measured=0.4)
    (state, *_) = check_resumed("adam", apply_to=apply_to, annealing=rule)
    lengths = state["llqr"]["lengths"]
    assert lengths["steps"] == rule.measured_until == 5
    assert float(lengths["common"]) not in (0.0, 1.0)
    assert 1.0 not in [float(value) for value in lengths["relative"].values()]


def test_a_run_resumed_in_its_annealing_equals_an_uninterrupted_one():
    rule = Annealing(total_steps=20, solved=0.1, measured=0.1, growth=1.0)
    (state, *_) = check_resumed("adam", apply_to="update", annealing=rule)
    pace = state["llqr"]["pace"]
    assert pace["steps"] == 8 - rule.start
    assert float(pace["length"]) > 0.0


@pytest.mark.parametrize("slopes", [True, False])
def test_a_run_with_a_multiplier_resumed_equals_an_uninterrupted_one(monkeypatch, slopes):
    # Steps that are far too long, and factors that stay near the identity.
    monkeypatch.setitem(BASES, "rough", lambda parameters: torch.optim.SGD(parameters, lr=50.0))
    (state, *_) = check_resumed(
        "rough",
        apply_to="update",
        update_interval=1,
        inner_solver="momentum",
        solver_options={"steps": 1, "learning_rate": 1e-6},
        multiplier=AdaptiveMultiplier(slopes=slopes),
    )
    multiplier = state["llqr"]["multiplier"]
    assert multiplier["losses"] == 8
    assert 0.0 < float(multiplier["value"]) < 1.0
    kept = dict(network().named_parameters()) if slopes else {}
    assert multiplier["anchor"].keys() == kept.keys()


def check_resumed(base, **settings):
    """Train with and without an interruption, compare, and return all that is left."""
    runs = []
    for interrupted in (False, True):
        model, optimizer = build(base, **settings)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        data = batches()
        train(model, optimizer, data, 4)
        scheduler.step()
        if interrupted:
            state = saved_and_loaded(
                [model.state_dict(), optimizer.state_dict(), scheduler.state_dict()]
            )
            model, optimizer = build(base, **settings)
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            for target, value in zip((model, optimizer, scheduler), state, strict=True):
                target.load_state_dict(value)
        torch.manual_seed(4)
        train(model, optimizer, data, 4)
        scheduler.step()
        runs.append(everything(optimizer))
    assert same(runs[0], runs[1])
    assert runs[0][0]["llqr"]["counters"]["step"] == 8
    return runs[0]


def test_the_state_holds_tensors_numbers_and_strings_only():
    _, optimizer = build()

    def check(value):
        if isinstance(value, dict):
            assert type(value) is dict
            for key, item in value.items():
                assert isinstance(key, (str, int))
                check(item)
        else:
            assert type(value) in (torch.Tensor, int, str)

    check(optimizer.state_dict()["llqr"])
    assert set(optimizer.state_dict()) == {"state", "param_groups", "llqr"}


def test_saved_factors_do_not_follow_later_steps():
    model, optimizer = build()
    train(model, optimizer, batches(), 1)
    saved = optimizer.state_dict()["llqr"]
    before = copy.deepcopy(saved)
    train(model, optimizer, batches(), 6)
    assert same(saved, before)


@pytest.mark.parametrize("source", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("target", [torch.float32, torch.float64, torch.bfloat16])
def test_factors_are_cast_to_the_dtype_of_the_target(source, target):
    model, optimizer = build(dtype=source)
    train(model, optimizer, batches(source), 4)
    state = saved_and_loaded(optimizer.state_dict())
    other, loaded = build(dtype=target)
    loaded.load_state_dict(state)
    working = torch.float64 if target == torch.float64 else torch.float32
    for block, factors in loaded.factors().items():
        assert factors["d"].dtype == working
        assert torch.equal(factors["d"], optimizer.factors()[block]["d"].to(working))
    assert loaded.counters() == optimizer.counters()
    assert loaded.last_fit.status == optimizer.last_fit.status
    train(other, loaded, batches(target), 4)
    assert loaded.counters()["fits"] == optimizer.counters()["fits"] + 1
    assert all(bool(p.isfinite().all()) for p in other.parameters())


def test_loading_follows_parameters_to_their_device():
    """The meta device stands for any other; it holds no values, so only places can be compared."""
    model, optimizer = build()
    train(model, optimizer, batches(), 1)
    on_meta = copy.deepcopy(optimizer.state_dict())
    on_meta["llqr"]["factors"] = {
        block: {name: factor.to("meta") for name, factor in factors.items()}
        for block, factors in on_meta["llqr"]["factors"].items()
    }
    from llqr.torch import state

    preconditioner = optimizer._members.preconditioner
    loaded, _ = state.unpack(preconditioner, optimizer.state_dict(), torch.zeros((), device="meta"))
    devices = {f.device.type for factors in loaded.factors.values() for f in factors.values()}
    assert devices == {loaded.step.device.type} == {"meta"}
    assert loaded.last_fit.objective.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"structure": "scalar"},
            r"another configuration: block '0' is \(scalar.*\) here and \(missing\)",
        ),
        ({"structure": "kronecker"}, r"block '0\.weight' is \(kronecker .*\) here and \(diagonal"),
    ],
)
def test_a_state_of_another_structure_is_refused_and_nothing_changes(change, message):
    model, optimizer = build()
    train(model, optimizer, batches(), 2)
    other_model, other = build(**change)
    train(other_model, other, batches(), 2)
    before = everything(other)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(optimizer.state_dict())
    assert same(everything(other), before)


def broken(kind):
    _, optimizer = build()
    state = copy.deepcopy(optimizer.state_dict())
    if kind == "base":
        del state["llqr"]
    elif kind == "version":
        state["llqr"]["version"] = 99
    elif kind == "shape":
        state["llqr"]["factors"]["0.bias"]["d"] = torch.ones(2)
    elif kind == "anchor":
        state["llqr"]["multiplier"]["anchor"] = {"0.bias": torch.ones(6)}
    elif kind == "groups":
        state["param_groups"] = []
    return state


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("base", r'must hold the key "llqr", got .*base_optimizer\.load_state_dict'),
        ("version", "must have version 8, got 99"),
        ("shape", r"factors of block '0\.bias' must have shapes .*\(6,\).* got .*\(2,\)"),
        ("anchor", r"its multiplier must keep 0 parameters .* got \{'0\.bias': \(6,\)\}"),
        ("groups", "different number of parameter groups"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_changes(kind, message):
    model, optimizer = build()
    train(model, optimizer, batches(), 2)
    before = everything(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(broken(kind))
    assert same(everything(optimizer), before)


def test_state_of_a_compiled_model_fits_the_plain_one():
    model = network()
    compiled = torch.compile(model, backend="eager")
    optimizer = wrap(compiled, BASES["adam"](compiled.parameters()))
    train(compiled, optimizer, batches(), 2)
    other, loaded = build()
    loaded.load_state_dict(optimizer.state_dict())
    assert same(loaded.state_dict()["llqr"], optimizer.state_dict()["llqr"])
    assert not equal(snapshot(other), snapshot(model))


def test_state_hooks_run():
    _, optimizer = build()
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("before"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(
        lambda o, state: {key: value for key, value in state.items() if key != "extra"}
    )
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("after"))
    state = optimizer.state_dict()
    assert state["extra"] == 1
    optimizer.load_state_dict(state)
    assert calls == ["before", "after"]
