"""Weights of one framework loaded into the other give the same outputs, loss and gradient, in float64."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="parity needs both frameworks")
torch = pytest.importorskip("torch", reason="parity needs both frameworks")

from workloads_extra import parameters, registry, spec  # noqa: E402

TRAIN, EVAL = spec.ForwardPassMode.TRAIN, spec.ForwardPassMode.EVAL
BATCH_SIZE = 8
SMOOTHING = 0.1

# The grokking workloads differ in their tables only; composition has another number of elements.
NAMES = [
    name
    for name in registry.WORKLOADS
    if registry.base_name(name) != "grokking" or name in ("grokking_mini", "grokking_composition")
]


def numpy_batch(workload, seed):
    """A batch of the validation split in which half of what carries weight carries none."""
    batch = next(workload._numpy_queue(0, "validation", BATCH_SIZE, True))
    weights = np.random.default_rng(seed).integers(0, 2, batch["weights"].shape).astype(np.float64)
    weights[0] = 1.0
    weights *= batch["weights"]
    as_double = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array
        for name, array in batch.items()
    }
    return {**as_double, "weights": weights}


def torch_model(workload, arrays):
    """The module in float64 with the given parameters."""
    model, _ = workload.init_model_fn(0)
    model.double()
    state = parameters.to_torch_layout(arrays)
    tensors = {name: torch.tensor(np.array(value)) for name, value in state.items()}
    model.load_state_dict({**dict(model.named_buffers()), **tensors})
    return model


def torch_side(workload, arrays, batch):
    """Outputs, loss dictionary and gradients by name."""
    model = torch_model(workload, arrays)
    batch = {name: torch.tensor(array) for name, array in batch.items()}
    outputs, _ = workload.model_fn(model, batch, None, TRAIN, None, True, 0.0)
    loss = workload.loss_fn(batch["targets"], outputs, batch["weights"], SMOOTHING)
    loss["summed"].backward()
    gradients = {name: value.grad.numpy() for name, value in model.named_parameters()}
    return outputs.detach().numpy(), to_numpy(loss), gradients


def jax_side(workload, arrays, batch):
    """Outputs, loss dictionary and gradients by path."""
    params = as_params(arrays)
    _, state = workload.init_model_fn(0)

    def summed(params):
        outputs, _ = workload.model_fn(params, batch, state, TRAIN, None, True, 0.0)
        loss = workload.loss_fn(batch["targets"], outputs, batch["weights"], SMOOTHING)
        return loss["summed"], (outputs, loss)

    gradients, (outputs, loss) = jax.grad(summed, has_aux=True)(params)
    return np.asarray(outputs), to_numpy(loss), parameters.flatten(gradients)


def as_params(arrays):
    """Arrays by path as JAX's parameters."""
    return parameters.nest({path: jax.numpy.asarray(array) for path, array in arrays.items()})


def to_numpy(loss):
    return {
        name: np.asarray(value.detach() if hasattr(value, "detach") else value)
        for name, value in loss.items()
    }


def random_weights(workload, seed):
    """Weights that are not initial values: no bias is zero, no scale one."""
    generator = np.random.default_rng(seed)
    initial = parameters.initial_arrays(workload._parameter_specs(), 0)
    return {
        path: array.astype(np.float64) + 0.3 * generator.standard_normal(array.shape)
        for path, array in initial.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_same_outputs_loss_and_gradient(name):
    in_jax = registry.make_workload(name, "jax")
    in_torch = registry.make_workload(name, "pytorch")
    arrays = random_weights(in_jax, seed=1)
    batch = numpy_batch(in_jax, seed=2)
    outputs_jax, loss_jax, gradients_jax = jax_side(in_jax, arrays, batch)
    outputs_torch, loss_torch, gradients_torch = torch_side(in_torch, arrays, batch)
    np.testing.assert_allclose(outputs_torch, outputs_jax, rtol=1e-11, atol=1e-12)
    for key in ("summed", "n_valid_examples", "per_example"):
        np.testing.assert_allclose(loss_torch[key], loss_jax[key], rtol=1e-11, atol=1e-12)
    back = parameters.from_torch_layout(in_jax._parameter_specs(), gradients_torch)
    assert back.keys() == gradients_jax.keys()
    for path, gradient in gradients_jax.items():
        assert np.abs(gradient).max() > 0, path
        np.testing.assert_allclose(back[path], gradient, rtol=1e-9, atol=1e-11, err_msg=path)


@pytest.mark.parametrize("name", NAMES)
def test_one_seed_gives_one_model_and_the_same_metrics(name):
    in_jax = registry.make_workload(name, "jax")
    in_torch = registry.make_workload(name, "pytorch")
    params, state = in_jax.init_model_fn(5)
    model, _ = in_torch.init_model_fn(5)
    ours = parameters.to_torch_layout(
        {path: np.asarray(value) for path, value in parameters.flatten(params).items()}
    )
    for tensor_name, value in model.named_parameters():
        np.testing.assert_array_equal(value.detach().numpy(), ours[tensor_name])
    size, rest = in_jax.eval_batch_size, (0, "", None, 0)
    metrics_jax = in_jax.eval_model(size, params, state, *rest)
    metrics_torch = in_torch.eval_model(size, model, None, *rest)
    assert metrics_jax.keys() == metrics_torch.keys()
    for metric, value in metrics_jax.items():
        assert value == pytest.approx(metrics_torch[metric], rel=2e-5), metric


@pytest.mark.parametrize("name", NAMES)
def test_types_and_shapes_describe_the_same_parameters(name):
    in_jax = registry.make_workload(name, "jax")
    in_torch = registry.make_workload(name, "pytorch")
    with pytest.raises(ValueError):
        _ = in_jax.param_shapes
    params, _ = in_jax.init_model_fn(0)
    model, _ = in_torch.init_model_fn(0)
    types = parameters.flatten(in_jax.model_params_types)
    assert {parameters.torch_name(path): kind for path, kind in types.items()} == (
        in_torch.model_params_types
    )
    for path, value in parameters.flatten(params).items():
        assert parameters.flatten(in_jax.param_shapes)[path].shape_tuple == value.shape
    for tensor_name, value in model.named_parameters():
        assert in_torch.param_shapes[tensor_name].shape_tuple == tuple(value.shape)
        assert in_torch.is_output_params(tensor_name) == tensor_name.startswith(
            f"{in_torch.output_layer}." if in_torch.output_layer else "no layer"
        )
