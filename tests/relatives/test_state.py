"""Every relative's state: a run that is saved and taken up again equals one that was not, bit for bit."""

import io

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from llqr.torch.relatives.packing import pack  # noqa: E402
from tests.relatives.regression import (  # noqa: E402
    EVERY,
    METHODS,
    batch,
    jax_build,
    jax_gradient,
    jax_params,
    torch_build,
    torch_model,
    train_torch,
    values,
)

every = pytest.mark.parametrize("key", EVERY)


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def trained(key, dtype, interrupted):
    """Return model and optimizer after eight steps, and the state after four."""
    model = torch_model(dtype)
    optimizer, options = torch_build(key, model)
    train_torch(optimizer, model, 4, **options)
    state = through_file([model.state_dict(), optimizer.state_dict()])
    if interrupted:
        model = torch_model(dtype)
        optimizer, options = torch_build(key, model)
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
    train_torch(optimizer, model, 4, **options)
    return model, optimizer, state


def leaves(tree):
    """Return path ↦ tensor of all tensors and numbers in a state."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        return {"": tree}
    return {f"{k}/{path}": leaf for k, v in items for path, leaf in leaves(v).items()}


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_resumed_torch_run_equals_an_uninterrupted_one(key, dtype):
    one, two = (trained(key, dtype, interrupted) for interrupted in (False, True))
    for a, b in zip(one[0].parameters(), two[0].parameters(), strict=True):
        assert torch.equal(a, b)
    own, other = leaves(one[1].state_dict()), leaves(two[1].state_dict())
    assert own.keys() == other.keys()
    moved = leaves(one[2][1])
    changed = 0
    for path, value in own.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[path].dtype
            np.testing.assert_array_equal(value, other[path])
            changed += not torch.equal(value, moved[path])
        else:
            assert value == other[path]
    assert changed


@pytest.mark.parametrize("key", METHODS)
def test_a_torch_state_loads_into_another_dtype(key):
    double, _, (weights, saved) = trained(key, torch.float64, False)
    single = torch_model(torch.float32)
    optimizer, _ = torch_build(key, single)
    single.load_state_dict(weights)
    optimizer.load_state_dict(saved)
    stored = saved["method"]["state"]
    for path, value in pack(optimizer.method_state()).items():
        expected = stored[path]
        if expected.is_floating_point():
            expected = expected.to(torch.float32)
        assert value.dtype == expected.dtype and torch.equal(value, expected)
    train_torch(optimizer, single, 4)
    for name, value in values(single).items():
        np.testing.assert_allclose(value, values(double)[name], rtol=2e-3, atol=2e-4)


@every
def test_a_resumed_jax_run_equals_an_uninterrupted_one(key):
    serialization = pytest.importorskip("flax.serialization")
    optimizer, data = jax_build(key), tuple(map(jnp.asarray, batch()))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax_gradient(params), state, params, batch=data)
        return optax.apply_updates(params, updates), state

    fresh = (jax_params(), jax_build(key).init(jax_params()))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(fresh))
    halfway = fresh
    for _ in range(4):
        halfway = step(*halfway)
    target = jax.tree.map(jnp.zeros_like, fresh)
    resumed = serialization.from_bytes(target, serialization.to_bytes(halfway))
    through_numpy = jax.tree.unflatten(
        jax.tree.structure(fresh), [np.array(leaf) for leaf in jax.tree.leaves(halfway)]
    )
    runs = [halfway, resumed, through_numpy]
    for _ in range(4):
        runs = [step(*run) for run in runs]
    for other in runs[1:]:
        for a, b in zip(jax.tree.leaves(runs[0]), jax.tree.leaves(other), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
    after, before = jax.tree.leaves(runs[0][1]), jax.tree.leaves(halfway[1])
    assert any(not np.array_equal(a, b) for a, b in zip(after, before, strict=True))
