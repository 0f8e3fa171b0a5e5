"""The relatives as torch optimizers and optax transformations: agreement, state, non-finite gradients."""

import copy
import itertools

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import llqr.jax  # noqa: E402
import llqr.torch  # noqa: E402
from llqr import structures  # noqa: E402
from llqr.config import configure  # noqa: E402
from llqr.curvature import GaussNewton, Hessian, LossHessian  # noqa: E402
from llqr.jax import relatives as jax_relatives  # noqa: E402
from llqr.relatives import GradientNormalizedNewton, NoiseAdaptiveRates  # noqa: E402
from llqr.torch import NonFiniteWarning  # noqa: E402
from llqr.torch import relatives as torch_relatives  # noqa: E402

METHODS = {
    "lodo": ("LODO", {"structure": structures.LODO(depth=2)}),
    "lodo_per_layer": ("LODO", {"structure": structures.LODO(depth=2, per="layer")}),
    "mfac": ("MFAC", {"window": 3, "damping": 0.1, "momentum": 0.5}),
    "lanton": ("LANTON", {"noise": NoiseAdaptiveRates(noise_scale=0.1)}),
}
methods = pytest.mark.parametrize("name, settings", METHODS.values(), ids=METHODS)
RATE, DECAY = 0.05, 0.1


def start():
    generator = np.random.default_rng(1)
    first, second = generator.standard_normal((4, 3)), generator.standard_normal((2, 4))
    return {"0.weight": first, "0.bias": np.zeros(4), "2.weight": second, "2.bias": np.ones(2)}


def batch():
    generator = np.random.default_rng(2)
    return generator.standard_normal((6, 3)), generator.standard_normal((6, 2))


def torch_model(dtype=torch.float64):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    model = model.to(dtype)
    model.load_state_dict({name: torch.tensor(value) for name, value in start().items()})
    return model


def torch_loss(outputs, data):
    return ((outputs - data[1].to(outputs.dtype)) ** 2).sum(1).mean()


def torch_batch(dtype=torch.float64):
    return tuple(torch.tensor(value, dtype=dtype) for value in batch())


def jax_params():
    return {
        layer: {
            "weight": jnp.asarray(start()[f"{layer}.weight"]),
            "bias": jnp.asarray(start()[f"{layer}.bias"]),
        }
        for layer in ("0", "2")
    }


def jax_outputs(params, data):
    hidden = jnp.tanh(data[0] @ params["0"]["weight"].T + params["0"]["bias"])
    return hidden @ params["2"]["weight"].T + params["2"]["bias"]


def jax_loss(outputs, data):
    return ((outputs - data[1]) ** 2).sum(1).mean()


def jax_gradient(params):
    data = tuple(map(jnp.asarray, batch()))
    return jax.grad(lambda p: jax_loss(jax_outputs(p, data), data))(params)


def train_torch(optimizer, model, steps, **options):
    data = torch_batch(next(model.parameters()).dtype)
    for _ in range(steps):
        optimizer.zero_grad()
        torch_loss(model(data[0]), data).backward()
        optimizer.step(**options)


def torch_optimizer(model, name, settings):
    kind = getattr(torch_relatives, name)
    return kind(model.named_parameters(), lr=RATE, weight_decay=DECAY, **settings)


def jax_optimizer(name, settings):
    kind = getattr(jax_relatives, name.lower())
    return kind(RATE, weight_decay=DECAY, **settings)


def values(model):
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def check_equal(params, model, tolerance=1e-10):
    for name, value in values(model).items():
        layer, leaf = name.split(".")
        np.testing.assert_allclose(params[layer][leaf], value, rtol=tolerance, atol=tolerance)


@methods
def test_torch_and_jax_agree(name, settings):
    model = torch_model()
    train_torch(torch_optimizer(model, name, settings), model, 7)
    optimizer, params = jax_optimizer(name, settings), jax_params()
    state, update = optimizer.init(params), jax.jit(optimizer.update, donate_argnums=1)
    for _ in range(7):
        updates, state = update(jax_gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    check_equal(params, model)
    assert int(state.count) == 7 and int(state.skipped) == 0
    assert max(np.abs(values(model)[n] - start()[n]).max() for n in start()) > 1e-2


@methods
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_torch_state_round_trips_exactly(name, settings, dtype):
    model = torch_model(dtype)
    optimizer = torch_optimizer(model, name, settings)
    train_torch(optimizer, model, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    twin = copy.deepcopy((model, optimizer))
    train_torch(optimizer, model, 4)
    train_torch(twin[1], twin[0], 4)
    fresh = torch_model(dtype)
    loaded = torch_optimizer(fresh, name, settings)
    fresh.load_state_dict(saved[0])
    loaded.load_state_dict(saved[1])
    train_torch(loaded, fresh, 4)
    for other in (fresh, twin[0]):
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(one, two)


def test_jax_state_is_a_pytree_of_arrays_that_restores(tmp_path):
    optimizer, params = jax_optimizer(*METHODS["lodo"]), jax_params()
    _, state = optimizer.update(jax_gradient(params), optimizer.init(params), params)
    leaves, tree = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    np.savez(tmp_path / "state.npz", *map(np.asarray, leaves))
    with np.load(tmp_path / "state.npz") as file:
        restored = jax.tree.unflatten(tree, [jnp.asarray(file[key]) for key in file.files])
    one, _ = optimizer.update(jax_gradient(params), state, params)
    two, _ = optimizer.update(jax_gradient(params), restored, params)
    jax.tree.map(np.testing.assert_array_equal, one, two)


@methods
def test_a_gradient_that_is_not_finite_skips_the_step(name, settings):
    model = torch_model()
    optimizer = torch_optimizer(model, name, settings)
    train_torch(optimizer, model, 2)
    before = copy.deepcopy((values(model), optimizer.state_dict()["method"]["state"]))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.warns(NonFiniteWarning, match=r"gradient of 0.weight, .* and 1 more .*1 skipped"):
        optimizer.step()
    after = optimizer.state_dict()["method"]
    for own, other in zip(before, (values(model), after["state"]), strict=True):
        assert all((np.asarray(own[k]) == np.asarray(other[k])).all() for k in own)
    assert after["skipped"] == 1
    transformation, params = jax_optimizer(name, settings), jax_params()
    state, update = transformation.init(params), jax.jit(transformation.update)
    _, state = update(jax_gradient(params), state, params)
    bad = jax.tree.map(lambda leaf: leaf * jnp.inf, jax_gradient(params))
    updates, new = update(bad, state, params)
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, new.method, state.method)
    assert (int(new.count), int(new.skipped)) == (1, 1)


def test_wrong_states_and_arguments_are_refused():
    model = torch_model()
    optimizer = torch_optimizer(model, *METHODS["mfac"])
    with pytest.raises(ValueError, match="must hold the key 'method'"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    other = torch_relatives.MFAC(model.named_parameters(), window=4).state_dict()
    with pytest.raises(
        ValueError, match=r"'gradients/0.bias' is of shape .3, 4. here and of shape .4, 4."
    ):
        optimizer.load_state_dict(other)
    with pytest.raises(ValueError, match="param_group must be given at construction to MFAC"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="lr must be a finite number of at least 0, got -1"):
        torch_relatives.LODO(model.parameters(), lr=-1.0)
    with pytest.raises(TypeError, match="method must be a method object, got 'lodo'"):
        torch_relatives.MethodOptimizer(model.parameters(), "lodo", lr=0.1)
    with pytest.raises(TypeError, match="method must be a method object, got 'lodo'"):
        jax_relatives.from_method("lodo", 0.1)
    decayed = jax_relatives.mfac(0.1, window=2, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"params must be given to update.. with weight_decay"):
        decayed.update(jax_params(), decayed.init(jax_params()))


def test_groups_schedules_and_missing_gradients():
    model = torch_model()
    head, body = list(model[2].parameters()), list(model[0].parameters())
    optimizer = torch_relatives.LANTON([{"params": head, "lr": 0.0}, {"params": body}], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    data = torch_batch()
    before = values(model)
    torch_loss(model(data[0]), data).backward()
    body[1].grad = None
    optimizer.step()
    schedule.step()
    after = values(model)
    moved = {name for name in after if (after[name] != before[name]).any()}
    assert moved == {"0.weight"}
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.05]
    assert repr(optimizer).startswith("LANTON(lr=0, 0.05: LANTON(momentum=0.95, noise=")
    scheduled, params = jax_relatives.lanton(lambda count: 0.1 * 0.5**count), jax_params()
    state, norms = scheduled.init(params), []
    for _ in range(2):
        updates, state = scheduled.update(jax_gradient(params), state, params)
        norms.append(float(jnp.linalg.norm(updates["2"]["bias"])))
    np.testing.assert_allclose(norms, [0.1 * 0.2 * 2**0.5, 0.05 * 0.2 * 2**0.5])


def llqr_config(**changes):
    settings = {"curvature": "newton", "structure": "scalar", "inner_solver": "conjugate_gradient"}
    options = {"solver_options": {"steps": 2}, "update_interval": 2, "damping": 1.0}
    return configure(**{**settings, **options, **changes})


def test_noise_adaptive_rates_around_llqr_agree_and_restore():
    rates = NoiseAdaptiveRates(noise_scale=0.01)

    def build(model):
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        inner = llqr.torch.LLQR(base, model, torch_loss, llqr_config())
        return torch_relatives.NoiseAdaptive(inner, model, rates=rates)

    model = torch_model()
    optimizer = build(model)
    train_torch(optimizer, model, 3, batch=torch_batch())
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train_torch(optimizer, model, 3, batch=torch_batch())
    fresh = torch_model()
    loaded = build(fresh)
    fresh.load_state_dict(saved[0])
    loaded.load_state_dict(saved[1])
    train_torch(loaded, fresh, 3, batch=torch_batch())
    for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)
    data, params = tuple(map(jnp.asarray, batch())), jax_params()
    inner = llqr.jax.llqr(
        optax.sgd(0.1), outputs_fn=jax_outputs, loss_fn=jax_loss, config=llqr_config()
    )
    transformation = jax_relatives.noise_adaptive(inner, rates=rates)
    state, update = transformation.init(params), jax.jit(transformation.update)
    for _ in range(6):
        updates, state = update(jax_gradient(params), state, params, batch=data)
        params = optax.apply_updates(params, updates)
    check_equal(params, model)
    assert min(optimizer.rates().values()) < 0.99 and max(optimizer.rates().values()) == 1.0


def test_noise_adaptive_rates_shorten_the_base_update():
    model, plain = torch_model(), torch_model()
    optimizer = torch_relatives.NoiseAdaptive(torch.optim.SGD(model.parameters(), lr=0.1), model)
    base = torch.optim.SGD(plain.parameters(), lr=0.1)
    train_torch(optimizer, model, 1)
    train_torch(base, plain, 1)
    # Nothing is known about the noise yet.
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True)
    )
    before = values(model)
    generator = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        parameter.grad = torch.tensor(
            generator.standard_normal(parameter.shape) * (9.0 if name[0] == "0" else 1.0)
        )
    optimizer.step()
    rates = optimizer.rates()
    assert rates["2"] == 1.0 and rates["0"] < 0.9
    for name, parameter in model.named_parameters():
        expected = before[name] - 0.1 * rates[name[0]] * parameter.grad.numpy()
        np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-12)
    model[0].bias.grad[0] = float("nan")
    with pytest.warns(NonFiniteWarning, match="0.bias"):
        optimizer.step()
    assert optimizer.skipped == 1


@pytest.mark.parametrize(
    "curvature", [Hessian(), GaussNewton(metric=LossHessian())], ids=["hessian", "gauss_newton"]
)
def test_gradient_normalized_newton_agrees_descends_and_restores(curvature):
    method = GradientNormalizedNewton(solver_steps=40, tolerance=1e-10)

    def build(model):
        return torch_relatives.GradientNormalizedNewton(
            model, torch_loss, curvature=curvature, method=method
        )

    model, data, losses = torch_model(), torch_batch(), []
    optimizer = build(model)
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        losses.append(float(torch_loss(model(data[0]), data).detach()))
        optimizer.step(batch=data)
    assert all(b < a for a, b in itertools.pairwise(losses)) and losses[-1] < 0.2 * losses[0]
    fresh = torch_model()
    loaded = build(fresh)
    fresh.load_state_dict(saved[0])
    loaded.load_state_dict(saved[1])
    for _ in range(3):
        loaded.step(batch=data)
    for one, two in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, two)
    transformation = jax_relatives.gradient_normalized_newton(
        outputs_fn=jax_outputs, loss_fn=jax_loss, curvature=curvature, method=method
    )
    params, own = jax_params(), tuple(map(jnp.asarray, batch()))
    state, update = transformation.init(params), jax.jit(transformation.update)
    for _ in range(6):
        updates, state = update(jax_gradient(params), state, params, batch=own)
        params = optax.apply_updates(params, updates)
    check_equal(params, model, 1e-8)
    assert float(state.method["smoothness"]) == optimizer.counters()["smoothness"]


def test_gradient_normalized_newton_skips_what_is_not_finite():
    model = torch_model()
    optimizer = torch_relatives.GradientNormalizedNewton(model, torch_loss, curvature=Hessian())
    before = values(model)
    data = (torch_batch()[0] * float("nan"), torch_batch()[1])
    with pytest.warns(NonFiniteWarning, match="1 skipped so far"):
        optimizer.step(batch=data)
    assert optimizer.counters()["skipped"] == 1 and optimizer.counters()["step"] == 0
    assert all((values(model)[name] == before[name]).all() for name in before)
    with pytest.raises(ValueError, match="batch must be given and closure must not, got no batch"):
        optimizer.step()
    transformation = jax_relatives.gradient_normalized_newton(
        outputs_fn=jax_outputs, loss_fn=jax_loss, curvature=Hessian()
    )
    params = jax_params()
    state = transformation.init(params)
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    own = tuple(map(jnp.asarray, batch()))
    updates, state = transformation.update(bad, state, params, batch=own)
    assert int(state.skipped) == 1 and all((u == 0.0).all() for u in jax.tree.leaves(updates))
