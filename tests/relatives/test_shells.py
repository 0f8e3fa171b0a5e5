"""The relatives as torch optimizers and optax transformations: agreement, non-finite gradients, refusals."""

import copy
import itertools

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from llqr.curvature import GaussNewton, Hessian, LossHessian  # noqa: E402
from llqr.jax import relatives as jax_relatives  # noqa: E402
from llqr.relatives import GradientNormalizedNewton  # noqa: E402
from llqr.torch import NonFiniteWarning  # noqa: E402
from llqr.torch import relatives as torch_relatives  # noqa: E402
from tests.relatives.regression import (  # noqa: E402
    METHODS,
    batch,
    check_equal,
    jax_gradient,
    jax_loss,
    jax_noise_adaptive,
    jax_optimizer,
    jax_outputs,
    jax_params,
    methods,
    start,
    torch_batch,
    torch_loss,
    torch_model,
    torch_noise_adaptive,
    torch_optimizer,
    train_torch,
    values,
)


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


def test_noise_adaptive_rates_around_llqr_agree():
    model = torch_model()
    optimizer = torch_noise_adaptive(model)
    train_torch(optimizer, model, 6, batch=torch_batch())
    data, params = tuple(map(jnp.asarray, batch())), jax_params()
    transformation = jax_noise_adaptive()
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
def test_gradient_normalized_newton_agrees_and_descends(curvature):
    method = GradientNormalizedNewton(solver_steps=40, tolerance=1e-14)
    model, data, losses = torch_model(), torch_batch(), []
    optimizer = torch_relatives.GradientNormalizedNewton(
        model, torch_loss, curvature=curvature, method=method
    )
    for _ in range(6):
        losses.append(float(torch_loss(model(data[0]), data).detach()))
        optimizer.step(batch=data)
    assert all(b < a for a, b in itertools.pairwise(losses)) and losses[-1] < 0.2 * losses[0]
    transformation = jax_relatives.gradient_normalized_newton(
        outputs_fn=jax_outputs, loss_fn=jax_loss, curvature=curvature, method=method
    )
    params, own = jax_params(), tuple(map(jnp.asarray, batch()))
    state, update = transformation.init(params), jax.jit(transformation.update)
    for _ in range(6):
        updates, state = update(jax_gradient(params), state, params, batch=own)
        params = optax.apply_updates(params, updates)
    check_equal(params, model)
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
