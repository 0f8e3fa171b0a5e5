"""What each workload is about: minima, tables, registry, losses against formulas written out."""

import hashlib
import itertools

import numpy as np
import pytest

from workloads_extra import registry, spec
from workloads_extra.char_lm.names import ALPHABET, END, character_names, name_sequences
from workloads_extra.grokking.operations import modular_table, permutation_table
from workloads_extra.rosenbrock import functions

EVAL = spec.ForwardPassMode.EVAL

PLANE = {
    functions.rosenbrock_two_layers: ((1.0, 100.0), [[1.0], [1.0]], 0.0),
    functions.ackley: ((20.0, 0.2), [[0.0, 0.0]], 0.0),
    functions.goldstein_price: ((1.0,), [[0.0, -1.0]], 3.0),
}


@pytest.mark.parametrize("function", PLANE, ids=lambda function: function.__name__)
def test_minimum_of_a_function_of_the_plane(function, rng):
    constants, minimiser, minimum = PLANE[function]
    constants = np.array([constants])
    at = [np.array(layer) for layer in minimiser]
    np.testing.assert_allclose(function(np, constants, at), [[minimum]], atol=1e-9)
    for _ in range(50):
        nearby = [layer + rng.normal(size=layer.shape) for layer in at]
        assert function(np, constants, nearby).item() > minimum


def test_one_and_two_layers_are_the_rosenbrock_function(rng):
    for a, b, u1, u2 in rng.normal(size=(20, 4)):
        b = abs(b)
        value = (a - u1) ** 2 + b * (u2 - u1**2) ** 2
        constants = np.array([[a, b]])
        residuals = functions.rosenbrock_residuals(np, constants, [np.array([u1, u2])])
        assert (residuals**2).sum() == pytest.approx(value, rel=1e-12)
        layers = [np.array([u1]), np.array([u2])]
        two = functions.rosenbrock_two_layers(np, constants, layers)
        assert two.item() == pytest.approx(value, rel=1e-9)


def test_ackley_and_goldstein_price_at_known_points():
    # Values from the textbook formulas, evaluated by hand at one point each.
    constants = np.array([[20.0, 0.2]])
    at_ones = functions.ackley(np, constants, [np.array([1.0, 1.0])]).item()
    assert at_ones == pytest.approx(20 * (1 - np.exp(-0.2)), rel=1e-12)
    for point, value in {(1.0, 1.0): 1876.0, (0.0, 0.0): 600.0, (-0.6, -0.4): 30.0}.items():
        found = functions.goldstein_price(np, np.ones((1, 1)), [np.array(point)]).item()
        assert found == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("operation", "inverse"),
    [
        ("sum", lambda a, b, c: (c - b) % 7 == a),
        ("difference", lambda a, b, c: (c + b) % 7 == a),
        ("product", lambda a, b, c: a * b % 7 == c),
        ("quotient", lambda a, b, c: c * b % 7 == a),
        ("power", lambda a, b, c: a**b % 7 == c),
    ],
)
def test_modular_tables(operation, inverse):
    table = modular_table(operation, 7)
    assert len(table.result) == (42 if operation == "quotient" else 49)
    assert len({*zip(table.left, table.right, strict=True)}) == len(table.result)
    for a, b, c in zip(
        table.left.tolist(), table.right.tolist(), table.result.tolist(), strict=True
    ):
        assert 0 <= c < 7
        assert inverse(a, b, c)


def test_composition_of_permutations():
    table = permutation_table(3)
    elements = list(itertools.permutations(range(3)))
    for a, b, c in zip(table.left, table.right, table.result, strict=True):
        assert elements[c] == tuple(elements[a][elements[b][i]] for i in range(3))


@pytest.mark.parametrize("name", [name for name in registry.WORKLOADS if "grokking" in name])
def test_grokking_splits_share_no_pair(name):
    workload = registry.make_workload(name, "pytorch")
    splits = [workload._splits[name] for name in ("train", "validation", "test")]
    pairs = [{*map(tuple, split.inputs)} for split in splits]
    assert sum(map(len, pairs)) == len(set.union(*pairs)) == len(workload._table.result)
    assert len(splits[0]) / sum(map(len, splits)) == pytest.approx(
        workload.training_share, abs=1e-3
    )


@pytest.mark.parametrize("framework", registry.FRAMEWORKS)
@pytest.mark.parametrize("loss_type", [kind for kind in spec.LossType if kind.name != "CTC_LOSS"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_against_their_formulas(framework, loss_type, smoothing, rng):
    outputs = rng.normal(size=(5, 3))
    categorical = loss_type is spec.LossType.SOFTMAX_CROSS_ENTROPY
    targets = rng.integers(0, 3, 5) if categorical else rng.uniform(size=(5, 3))
    mask = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    expected = mask * written_out(loss_type, outputs, targets, smoothing)
    workload = registry.make_workload("digits", framework)
    workload.loss_type = loss_type
    arrays = [framework_array(framework, array) for array in (targets, outputs, mask)]
    loss = workload.loss_fn(*arrays, smoothing)
    np.testing.assert_allclose(np.asarray(loss["per_example"]), expected, rtol=1e-12)
    assert float(loss["summed"]) == pytest.approx(expected.sum(), rel=1e-12)
    assert float(loss["n_valid_examples"]) == 3
    unmasked = workload.loss_fn(*arrays[:2])
    assert float(unmasked["n_valid_examples"]) == 5


def written_out(loss_type, outputs, targets, smoothing):
    """The losses from probabilities, without the stable forms."""
    if loss_type is spec.LossType.SOFTMAX_CROSS_ENTROPY:
        probabilities = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
        wanted = (1 - smoothing) * np.eye(3)[targets] + smoothing / 3
        return -(wanted * np.log(probabilities)).sum(-1)
    if loss_type is spec.LossType.SIGMOID_CROSS_ENTROPY:
        probabilities = 1 / (1 + np.exp(-outputs))
        wanted = (1 - smoothing) * targets + smoothing / 2
        return -(wanted * np.log(probabilities) + (1 - wanted) * np.log(1 - probabilities)).sum(-1)
    power = 2 if loss_type is spec.LossType.MEAN_SQUARED_ERROR else 1
    return (np.abs(outputs - targets) ** power).sum(-1)


def framework_array(framework, array):
    if framework == "jax":
        return pytest.importorskip("jax").numpy.asarray(array)
    return pytest.importorskip("torch").tensor(array)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"one of rosenbrock, .*did you mean 'digits'"):
        registry.make_workload("digit", "jax")
    with pytest.raises(ValueError, match="framework must be one of jax, pytorch, got 'tf'"):
        registry.make_workload("digits", "tf")


@pytest.mark.parametrize("framework", registry.FRAMEWORKS)
@pytest.mark.parametrize("name", registry.WORKLOADS)
def test_targets_are_compared_as_the_scoring_code_does(name, framework):
    workload = registry.make_workload(name, framework)
    metric = workload.target_metric_name
    better = -1e-3 if metric == "loss" else 1e-3
    for split, reached in (
        ("validation", workload.has_reached_validation_target),
        ("test", workload.has_reached_test_target),
    ):
        target = getattr(workload, f"{split}_target_value")
        assert reached({f"{split}/{metric}": target})
        assert reached({f"{split}/{metric}": target + better})
        assert not reached({f"{split}/{metric}": target - better})
    assert workload.max_allowed_runtime_sec > workload.eval_period_time_sec > 0
    assert workload.step_hint >= 1


def test_names_are_the_frozen_ones():
    names = character_names()
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == (
        "03ce3aea0397e841afdbafb4f732c6cb6fdca0bdb370d0a9cdbdbdcae33a3ee3"
    )
    assert len(names) == len({*names}) == 12886
    assert {*"".join(names)} == {*ALPHABET}


def test_names_become_padded_sequences():
    split = name_sequences(("AB", "Z"), 4)
    a, b, z = (1 + ALPHABET.index(letter) for letter in "ABZ")
    np.testing.assert_array_equal(split.inputs, [[END, a, b, END], [END, z, END, END]])
    np.testing.assert_array_equal(split.targets, [[a, b, END, END], [z, END, END, END]])
    np.testing.assert_array_equal(split.weights, [[1, 1, 1, 0], [1, 1, 0, 0]])


@pytest.mark.parametrize("framework", registry.FRAMEWORKS)
def test_character_model_is_scored_per_letter(framework):
    workload = registry.make_workload("char_lm", framework)
    params, state = workload.init_model_fn(0)
    loss = letters = 0.0
    for batch in workload._build_input_queue(0, "test", "", 100, repeat_final_dataset=False):
        assert batch["targets"].shape == batch["weights"].shape == (100, 32)
        outputs, _ = workload.model_fn(params, batch, state, EVAL, None, False)
        losses = workload.loss_fn(batch["targets"], outputs, batch["weights"])
        assert losses["per_example"].shape == (100, 32)
        loss += float(losses["summed"])
        letters += float(losses["n_valid_examples"])
    assert letters == workload._splits["test"].weights.sum() < 512 * 32
    found = workload.eval_model(512, params, state, 0, "", None, 0)
    assert found["test/loss"] == pytest.approx(loss / letters, rel=1e-5)
    assert found["test/num_examples"] == 512


@pytest.mark.parametrize("framework", registry.FRAMEWORKS)
def test_character_model_looks_at_no_letter_it_has_to_say(framework):
    workload = registry.make_workload("char_lm", framework)
    params, state = workload.init_model_fn(0)
    inputs = np.array(workload._splits["test"].inputs[:2])
    before = outputs_of(workload, framework, params, state, inputs)
    inputs[:, 5:] = 1
    after = outputs_of(workload, framework, params, state, inputs)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any()


def outputs_of(workload, framework, params, state, inputs):
    batch = {"inputs": framework_array(framework, inputs)}
    outputs, _ = workload.model_fn(params, batch, state, EVAL, None, False)
    return np.asarray(outputs)
