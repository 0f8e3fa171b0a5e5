"""Batch normalisation: which statistics hold and when the running ones change, in both frameworks."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="parity needs both frameworks")
torch = pytest.importorskip("torch", reason="parity needs both frameworks")

from tests.workloads.test_parity import (  # noqa: E402
    EVAL,
    TRAIN,
    as_params,
    numpy_batch,
    random_weights,
    torch_model,
)
from workloads_extra import parameters, registry  # noqa: E402

CALLS = [(TRAIN, True), (TRAIN, False), (EVAL, True), (EVAL, False)]
BUFFERS = {"mean": "running_mean", "var": "running_var"}


@pytest.fixture
def both():
    """The two workloads, their parameters with other running statistics than at the start, a batch."""
    in_jax = registry.make_workload("digits_conv", "jax")
    in_torch = registry.make_workload("digits_conv", "pytorch")
    arrays = random_weights(in_jax, seed=1)
    generator = np.random.default_rng(2)
    _, state = in_jax.init_model_fn(0)
    state = jax.tree.map(lambda leaf: generator.uniform(0.5, 2.0, leaf.shape), state)
    model = torch_model(in_torch, arrays)
    running = {torch_buffer(path): value for path, value in flat(state).items()}
    model.load_state_dict(
        {**model.state_dict(), **{name: torch.tensor(value) for name, value in running.items()}}
    )
    return (in_jax, as_params(arrays), state), (in_torch, model), numpy_batch(in_jax, seed=3)


def flat(state):
    return parameters.flatten(state["batch_stats"])


def torch_buffer(path):
    layer, leaf = path.split("/")
    return f"{layer}.{BUFFERS[leaf]}"


def tensors(batch):
    return {name: torch.tensor(array) for name, array in batch.items()}


@pytest.mark.parametrize(("mode", "update"), CALLS)
def test_outputs_and_new_statistics(both, mode, update):
    (in_jax, params, state), (in_torch, model), batch = both
    outputs, new = in_jax.model_fn(params, batch, state, mode, None, update)
    for _ in range(2):  # A call leaves no mode behind.
        in_torch.model_fn(model, tensors(batch), None, TRAIN, None, False)
    found, none = in_torch.model_fn(model, tensors(batch), None, mode, None, update)
    assert none is None
    assert found.requires_grad == (mode is TRAIN)
    np.testing.assert_allclose(found.detach(), outputs, rtol=1e-11, atol=1e-12)
    buffers = dict(model.named_buffers())
    for path, value in flat(new).items():
        np.testing.assert_allclose(buffers[torch_buffer(path)], value, rtol=1e-12)
        changed = not np.array_equal(value, flat(state)[path])
        assert changed == (mode is TRAIN and update)


def test_gradient_at_the_running_statistics(both):
    (in_jax, params, state), (in_torch, model), batch = both

    def summed(params):
        outputs, _ = in_jax.model_fn(params, batch, state, EVAL, None, False)
        return in_jax.loss_fn(batch["targets"], outputs, batch["weights"])["summed"]

    gradients = parameters.flatten(jax.grad(summed)(params))
    model.eval()
    batch = tensors(batch)
    outputs = model(batch["inputs"])
    in_torch.loss_fn(batch["targets"], outputs, batch["weights"])["summed"].backward()
    found = {name: value.grad.numpy() for name, value in model.named_parameters()}
    back = parameters.from_torch_layout(in_jax._parameter_specs(), found)
    for path, gradient in gradients.items():
        assert np.abs(gradient).max() > 0, path
        np.testing.assert_allclose(back[path], gradient, rtol=1e-9, atol=1e-11, err_msg=path)


def test_training_outputs_have_the_statistics_of_the_batch(both):
    _, (_, model), batch = both
    model.train()
    seen = []
    model.norm_0.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.tensor(batch["inputs"]))
    mean = seen[0].mean(dim=(0, 2, 3)).detach()
    np.testing.assert_allclose(mean, model.norm_0.bias.detach(), atol=1e-10)
