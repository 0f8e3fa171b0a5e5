"""Blocks of real networks: roll-out = quadratic model, Riccati = dense solve, torch = JAX."""

import dataclasses
import json
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from llqr.reference import (
    Fisher,
    GaussNewton,
    IndefiniteStageError,
    IntermediateLayers,
    Layer,
    Newton,
    Renyi,
    dense_step,
    quadratic_value,
    riccati_step,
    rollout_cost,
)
from tests.reference.network_cases import FRAMEWORKS, NETWORKS, build, load

GOLDEN = Path(__file__).parents[1] / "data" / "mlp.npz"
MODES = ("newton", "gauss_newton", "fisher", "renyi", "metric_on_fisher")
CASES = [
    *product(NETWORKS, MODES),
    *product(("mlp_tanh", "rosenbrock_two_layers"), ("metric_on_newton", "metric")),
]
TOLERANCE = 1e-10


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return load(request.param)


def make_mode(framework, case, name):
    fisher = Fisher(divergence=case.divergence)
    metrics = {1: framework.reference.gaussian_kl}
    return {
        "newton": Newton(),
        "gauss_newton": GaussNewton(),
        "fisher": fisher,
        "renyi": Renyi(order=1.7, divergence=case.divergence),
        "metric_on_newton": IntermediateLayers(divergences=metrics, base=Newton()),
        "metric_on_fisher": IntermediateLayers(divergences=metrics, base=fisher),
        "metric": IntermediateLayers(divergences=metrics),
    }[name]


@cache
def models(framework_name, network, mode_name):
    """LQR problem, g and C; the damping makes C + λI positive definite and well conditioned."""
    framework = load(framework_name)
    case = build(framework, network)
    mode = make_mode(framework, case, mode_name)
    arguments = (case.layers, case.inputs, case.loss)
    gradient, curvature = framework.reference.dense_model(*arguments, mode=mode)
    smallest, *_, largest = np.linalg.eigvalsh(curvature)
    # Rosenbrock's Fisher has eigenvalues 0 and 5e4: with an absolute damping alone the oracle,
    # the dense solve, would itself be wrong by nearly the tolerance.
    damping = 0.1 + 1e-3 * largest + 1.5 * max(0.0, -smallest)
    problem = framework.reference.layerwise_problem(*arguments, mode=mode, damping=damping)
    return problem, gradient, curvature


def relative_error(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("network", "mode"), CASES)
@pytest.mark.parametrize("framework_name", FRAMEWORKS)
def test_layerwise_model_is_the_dense_model(framework_name, network, mode, rng):
    problem, gradient, curvature = models(framework_name, network, mode)
    for _ in range(3):
        delta = rng.normal(size=gradient.shape)
        expected = quadratic_value(gradient, curvature, problem.damping, delta)
        assert rollout_cost(problem, problem.split(delta)) == pytest.approx(expected, rel=TOLERANCE)
    step = dense_step(gradient, curvature, problem.damping)
    assert relative_error(np.concatenate(riccati_step(problem)), step) < TOLERANCE


@pytest.mark.parametrize("mode", ["newton", "metric_on_fisher"])
@pytest.mark.parametrize("network", ["mlp_tanh", "residual", "rosenbrock_two_layers"])
def test_blocks_agree_between_frameworks(network, mode):
    problems = [models(name, network, mode)[0] for name in FRAMEWORKS]
    for mine, other in zip(*(problem.stages for problem in problems), strict=True):
        for block in ("A", "B", "Q", "M", "R"):
            np.testing.assert_allclose(
                getattr(mine, block), getattr(other, block), rtol=TOLERANCE, atol=1e-12
            )
    for terminal in ("terminal_gradient", "terminal_curvature"):
        np.testing.assert_allclose(
            *(getattr(problem, terminal) for problem in problems), rtol=TOLERANCE, atol=1e-12
        )


@pytest.mark.parametrize("mode", ["newton", "fisher"])
def test_convolutional_steps_agree_between_layouts(mode):
    steps = []
    for name in FRAMEWORKS:
        framework = load(name)
        case = build(framework, "convolutional")
        problem = dataclasses.replace(models(name, "convolutional", mode)[0], damping=4.0)
        trees = framework.reference.steps_as_parameters(case.layers, riccati_step(problem))
        parts = [framework.kernel_to_hwio(np.asarray(tree[0])) for tree in trees[:2]]
        parts += [np.asarray(tree[1]) for tree in trees[:2]]
        steps.append(np.concatenate([part.ravel() for part in parts]))
    assert relative_error(steps[0], steps[1]) < TOLERANCE


def test_rosenbrock_hessian_is_the_textbook_one():
    """[2 − 4b(u2 − 3u1²), −4b u1; −4b u1, 2b] at u = (−1.2, 1), b = 100."""
    expected = np.array([[1330.0, 480.0], [480.0, 200.0]])
    for name in FRAMEWORKS:
        for network in ("rosenbrock_one_layer", "rosenbrock_two_layers"):
            _, gradient, curvature = models(name, network, "newton")
            np.testing.assert_allclose(curvature, expected, rtol=1e-14)
            np.testing.assert_allclose(gradient, [-215.6, -88.0], rtol=1e-14)


def test_fisher_is_the_full_hessian_of_the_kl_divergence(framework):
    """p_N = 0 at θ' = θ, so Q, M and R vanish although the layers are curved."""
    case = build(framework, "mlp_gelu")
    outputs = case.inputs
    for layer in case.layers:
        outputs = layer.function(outputs, layer.parameters)

    def from_here(other):
        return case.divergence(outputs, other)

    reference = framework.reference
    full = reference.dense_model(case.layers, case.inputs, from_here, mode=Newton())
    mode = Fisher(divergence=case.divergence)
    fisher = reference.dense_model(case.layers, case.inputs, case.loss, mode=mode)
    np.testing.assert_allclose(full.curvature, fisher.curvature, rtol=TOLERANCE, atol=1e-14)
    problem = reference.layerwise_problem(case.layers, case.inputs, from_here, mode=Newton())
    for stage in problem.stages:
        assert max(np.abs(block).max() for block in (stage.Q, stage.M, stage.R)) < 1e-14


@pytest.mark.parametrize("order", [0.5, 2.0])
def test_renyi_curvature_is_order_times_fisher(framework, order):
    """∂²/∂θ'² of log Σ p^α p'^(1 − α) / (α − 1), the Rényi divergence of categoricals."""
    case = build(framework, "mlp_gelu")
    log_softmax = framework.activations["log_softmax"]

    def renyi(logits, other):
        powers = order * log_softmax(logits) + (1.0 - order) * log_softmax(other)
        return framework.log(framework.exp(powers).sum(-1)).mean() / (order - 1.0)

    actual, expected = (
        framework.reference.dense_model(case.layers, case.inputs, case.loss, mode=mode).curvature
        for mode in (Renyi(order=order, divergence=case.divergence), Fisher(divergence=renyi))
    )
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=1e-14)


def test_auxiliary_loss_on_a_hidden_state_enters_newton_in_full(framework, rng):
    """Its gradient is not 0, so it must join the adjoint: u ↦ u² is curved in the first layer."""
    case = build(framework, "rosenbrock_two_layers")
    auxiliary = IntermediateLayers(divergences={1: lambda _, x: (x**3).sum()}, base=Newton())
    arguments = (case.layers, case.inputs, case.loss)
    gradient, curvature = framework.reference.dense_model(*arguments, mode=auxiliary)
    plain = framework.reference.dense_model(*arguments, mode=Newton()).curvature
    assert relative_error(plain, curvature) > 0.01
    problem = framework.reference.layerwise_problem(*arguments, mode=auxiliary)
    delta = rng.normal(size=gradient.shape)
    expected = quadratic_value(gradient, curvature, 0.0, delta)
    assert rollout_cost(problem, problem.split(delta)) == pytest.approx(expected, rel=TOLERANCE)


def test_integer_inputs_are_constants(framework):
    """An embedding has no ∂f/∂x; a one-hot layer has neither input derivative nor parameters."""
    rng = np.random.default_rng(3)
    tokens = framework.array(np.array([0, 2, 1, 2]))
    table = framework.array(rng.normal(size=(3, 3)))
    one_hot = framework.array(np.eye(3))
    labels = framework.array(np.eye(3)[[0, 1, 2, 0]])

    def loss(x):
        return -(labels * framework.activations["log_softmax"](x)).sum(-1).mean()

    embedding = [
        Layer("embedding", lambda x, theta: framework.activations["tanh"](theta[x]), table)
    ]
    multiplied = [
        Layer("one_hot", lambda x, _: one_hot[x]),
        Layer("product", lambda x, theta: framework.activations["tanh"](x @ theta), table),
    ]
    steps = []
    for layers in (embedding, multiplied):
        problem = framework.reference.layerwise_problem(
            layers, tokens, loss, mode=Newton(), damping=1.0
        )
        assert problem.stages[0].A.shape[1] == 0
        gradient, curvature = framework.reference.dense_model(layers, tokens, loss, mode=Newton())
        steps.append(np.concatenate(riccati_step(problem)))
        assert relative_error(steps[-1], dense_step(gradient, curvature, 1.0)) < TOLERANCE
    assert relative_error(steps[0], steps[1]) < TOLERANCE


def golden_problem(framework):
    """Rebuild the network of the golden file from its description."""
    with np.load(GOLDEN) as archive:
        data = dict(archive)
    layers = []
    for index, (kind, activation) in enumerate(json.loads(str(data["architecture"]))):
        assert kind == "dense"
        parameters = {
            key: framework.array(data[f"params/layers_{index}/{key}"]) for key in ("kernel", "bias")
        }
        layers.append(
            Layer(
                f"layers_{index}",
                lambda x, theta, activation=activation: framework.activations[activation](
                    x @ theta["kernel"] + theta["bias"]
                ),
                parameters,
            )
        )
    smoothing, classes = float(data["label_smoothing"]), data["logprobs"].shape[1]
    targets = (1.0 - smoothing) * np.eye(classes)[data["y"]] + smoothing / classes
    targets = framework.array(targets)
    return data, layers, lambda outputs: -(targets * outputs).sum(-1).mean()


def assert_trees_match(data, prefix, layers, trees):
    for layer, tree in zip(layers, trees, strict=True):
        for key, value in tree.items():
            expected = data[f"{prefix}/{layer.name}/{key}"]
            assert relative_error(np.asarray(value), expected) < 1e-9


@pytest.mark.parametrize("name", ["newton", "fisher_mean"])
def test_published_exact_steps(framework, name):
    data, layers, loss = golden_problem(framework)
    reference = framework.reference
    mode = Newton() if name == "newton" else Fisher(divergence=reference.categorical_kl)
    problem = reference.layerwise_problem(
        layers, framework.array(data["x"]), loss, mode=mode, damping=1e-2
    )
    # The Hessian with this damping is indefinite: the published step is its stationary point.
    steps = riccati_step(problem, require_minimum=name != "newton")
    trees = reference.steps_as_parameters(layers, steps)
    assert_trees_match(data, f"exact_step/{name}_damping_1e-2", layers, trees)


def test_published_gradient(framework):
    data, layers, loss = golden_problem(framework)
    reference = framework.reference
    gradient = reference.dense_model(
        layers, framework.array(data["x"]), loss, mode=GaussNewton()
    ).gradient
    widths = [
        data[f"gradient/{layer.name}/kernel"].size + len(layer.parameters["bias"])
        for layer in layers
    ]
    parts = np.split(gradient, np.cumsum(widths)[:-1])
    assert_trees_match(data, "gradient", layers, reference.steps_as_parameters(layers, parts))


@pytest.mark.parametrize("framework_name", FRAMEWORKS)
def test_indefinite_network_names_layer_and_cure(framework_name):
    problem, _, curvature = models(framework_name, "mlp_tanh", "newton")
    threshold = -np.linalg.eigvalsh(curvature)[0]
    with pytest.raises(IndefiniteStageError) as raised:
        riccati_step(dataclasses.replace(problem, damping=0.0))
    error = raised.value
    assert error.layer_name == problem.stages[error.layer_index].name
    assert threshold < error.damping < 1.02 * threshold
    riccati_step(dataclasses.replace(problem, damping=error.damping))


def test_bad_networks_are_refused(framework):
    case = build(framework, "mlp_tanh")
    reference = framework.reference
    for function in (reference.layerwise_problem, reference.dense_model):
        with pytest.raises(ValueError, match="layers must hold at least one Layer"):
            function([], case.inputs, case.loss, mode=Newton())
        with pytest.raises(ValueError, match=r"loss must return a scalar, got .* \(5, 3\)"):
            function(case.layers, case.inputs, lambda logits: logits, mode=Newton())
        with pytest.raises(ValueError, match=r"divergence on state 3 must return a scalar"):
            mode = Fisher(divergence=lambda x, other: other)
            function(case.layers, case.inputs, case.loss, mode=mode)
        with pytest.raises(ValueError, match="states 1 to 3, got index 4"):
            mode = IntermediateLayers(divergences={4: case.divergence})
            function(case.layers, case.inputs, case.loss, mode=mode)
    with pytest.raises(ValueError, match=r"damping must be finite and >= 0, got -1\.0"):
        reference.layerwise_problem(
            case.layers, case.inputs, case.loss, mode=Newton(), damping=-1.0
        )
    with pytest.raises(ValueError, match=r"one array per layer \(3\), got 1"):
        reference.steps_as_parameters(case.layers, [np.zeros(25)])
    with pytest.raises(ValueError, match=r"step of layer 'hidden' must have shape \(25,\)"):
        reference.steps_as_parameters(case.layers, [np.zeros(2)] * 3)


def test_bad_modes_are_refused():
    with pytest.raises(ValueError, match="order must be finite and > 0, got -1"):
        Renyi(order=-1.0, divergence=lambda x, other: x)
    with pytest.raises(ValueError, match="at least one state, got none"):
        IntermediateLayers(divergences={})
    with pytest.raises(ValueError, match="states 1 to N, got index 0"):
        IntermediateLayers(divergences={0: lambda x, other: x})


def test_torch_refuses_what_is_no_tensor():
    framework = load("torch")
    layers = [Layer("scale", lambda x, theta: x * theta, 2.0)]
    inputs = framework.array(np.ones(2))
    with pytest.raises(TypeError, match=r"got float; wrap numbers with torch\.tensor"):
        framework.reference.layerwise_problem(layers, inputs, lambda x: x.sum(), mode=Newton())


def test_jax_needs_64_bit_mode():
    framework = load("jax")
    jax = pytest.importorskip("jax")
    case = build(framework, "mlp_tanh")
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(RuntimeError, match="jax_enable_x64"):
            framework.reference.dense_model(case.layers, case.inputs, case.loss, mode=Newton())
    finally:
        jax.config.update("jax_enable_x64", True)
