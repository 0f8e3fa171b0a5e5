"""torch and JAX fit the same factors: every structure, curvature and solver on one set of cases, in float64.

Both frameworks build the same network from the same NumPy weights, laid out alike (kernels [in, out]) and
named alike, so that factors can be compared entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest

from llqr.annealing import Annealing
from llqr.backend import Array, Tensors
from llqr.config import SOLVERS, STRUCTURES, configure
from llqr.curvature import AbstractCurvature, GaussNewton, Hessian, LossHessian, quadratic_model
from llqr.divergences import (
    Bernoulli,
    Categorical,
    FramewiseCategorical,
    Gaussian,
    Laplace,
    Renyi,
)
from llqr.multiplier import AdaptiveMultiplier
from llqr.preconditioner import Preconditioner
from llqr.solvers import Status
from llqr.structures import fold_output_last

jax = pytest.importorskip("jax", reason="needs both frameworks")
torch = pytest.importorskip("torch", reason="needs both frameworks")
pytest.importorskip("optax", reason="needs both frameworks")

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

import llqr.jax  # noqa: E402
import llqr.torch  # noqa: E402

TOLERANCE = 1e-10
EXAMPLES, FRAMES, INPUTS, HIDDEN, CLASSES = 6, 3, 4, 5, 3

SOLVER_OPTIONS: dict[str, dict[str, Any]] = {
    "momentum": {"steps": 3, "learning_rate": 0.02},
    "adam": {"steps": 3, "learning_rate": 0.02},
    "conjugate_gradient": {"steps": 2},
    "direct": {},
}
DIRECT = ("scalar", "span")  # the structures with few factors
STRUCTURE_OPTIONS: dict[str, dict[str, Any]] = {
    "kronecker": {"max_factor_dim": 4},  # some axes get a matrix, some a diagonal
    "span": {"directions": ("gradient", "update")},
}


class Case(NamedTuple):
    """One curvature with a loss that goes with it.

    Attributes:
        curvature: C.
        loss: (log-softmax, softplus, outputs, targets, mask) ↦ loss, in either framework's arrays.
        framewise: are inputs [B, T, d] with a mask over frames.
        intermediate: does the network also name its hidden layer.
    """

    curvature: AbstractCurvature
    loss: Callable[..., Any]
    framewise: bool = False
    intermediate: bool = False


def cross_entropy(log_softmax, softplus, outputs, targets, mask):
    return -(log_softmax(outputs) * targets).sum(-1).mean()


def sigmoid_cross_entropy(log_softmax, softplus, outputs, targets, mask):
    return (softplus(outputs) - outputs * targets).mean()


def half_squared_error(log_softmax, softplus, outputs, targets, mask):
    return 0.5 * ((outputs - targets) ** 2).mean()


def absolute_error(log_softmax, softplus, outputs, targets, mask):
    return abs(outputs - targets).mean()


def masked_cross_entropy(log_softmax, softplus, outputs, targets, mask):
    """Summed over the frames that count, with the number of examples to divide by."""
    losses = -(log_softmax(outputs) * targets).sum(-1)
    return (losses * mask).sum(), (0.0 * mask[:, 0] + 1.0).sum()


CASES = {
    "newton": Case(Hessian(), cross_entropy),
    "gauss_newton": Case(GaussNewton(metric=LossHessian()), cross_entropy),
    "categorical": Case(GaussNewton(metric=Categorical()), cross_entropy),
    "bernoulli": Case(GaussNewton(metric=Bernoulli(), reduction="sum"), sigmoid_cross_entropy),
    "gaussian": Case(GaussNewton(metric=Gaussian()), half_squared_error),
    "laplace": Case(GaussNewton(metric=Laplace(scale=0.5)), absolute_error),
    "framewise": Case(GaussNewton(metric=FramewiseCategorical()), masked_cross_entropy, True),
    "renyi": Case(GaussNewton(metric=Renyi(order=0.5, base=Categorical())), cross_entropy),
    "intermediate": Case(
        GaussNewton(metric=Categorical(), intermediate={"hidden": Gaussian(precision=0.5)}),
        cross_entropy,
        intermediate=True,
    ),
}


@cache
def weights() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def layer(n_in: int, n_out: int) -> dict[str, np.ndarray]:
        kernel = rng.standard_normal((n_in, n_out)) / np.sqrt(n_in)
        return {"kernel": kernel, "bias": 0.1 * rng.standard_normal(n_out)}

    return {"first": layer(INPUTS, HIDDEN), "second": layer(HIDDEN, CLASSES)}


def numpy_batch(framewise: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, targets (one-hot) and a mask over frames."""
    rng = np.random.default_rng(1)
    events = (EXAMPLES, FRAMES) if framewise else (EXAMPLES,)
    targets = np.eye(CLASSES)[rng.integers(0, CLASSES, events)]
    mask = (np.arange(FRAMES)[None] < rng.integers(1, FRAMES + 1, EXAMPLES)[:, None]).astype(float)
    return rng.standard_normal((*events, INPUTS)), targets, mask


def jax_problem(case: Case) -> Any:
    def outputs(params, batch):
        hidden = jnp.tanh(batch[0] @ params["first"]["kernel"] + params["first"]["bias"])
        result = hidden @ params["second"]["kernel"] + params["second"]["bias"]
        return (result, {"hidden": hidden}) if case.intermediate else result

    def loss(outputs, batch):
        return case.loss(jax.nn.log_softmax, jax.nn.softplus, outputs, *batch[1:])

    return llqr.jax.linearise(
        outputs,
        loss,
        jax.tree.map(jnp.asarray, weights()),
        jax.tree.map(jnp.asarray, numpy_batch(case.framewise)),
        curvature=case.curvature,
        weights_fn=(lambda batch: batch[2]) if case.framewise else None,
    )


class Layer(torch.nn.Module):
    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(torch.tensor(arrays["kernel"]))
        self.bias = torch.nn.Parameter(torch.tensor(arrays["bias"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.kernel + self.bias


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Layer(weights()["first"]), Layer(weights()["second"])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.tanh(self.first(x))
        return self.second(hidden), hidden


def torch_problem(case: Case) -> Any:
    def outputs(model, batch):
        result, hidden = model(batch[0])
        return (result, {"hidden": hidden}) if case.intermediate else result

    def log_softmax(x):
        return torch.log_softmax(x, -1)

    def loss(outputs, batch):
        return case.loss(log_softmax, torch.nn.functional.softplus, outputs, *batch[1:])

    return llqr.torch.linearise(
        Network(),
        loss,
        tuple(torch.tensor(array) for array in numpy_batch(case.framewise)),
        curvature=case.curvature,
        outputs_fn=outputs,
        weights_fn=(lambda batch: batch[2]) if case.framewise else None,
    )


@cache
def models(name: str) -> tuple[Any, Any]:
    """Return (backend, quadratic model) for JAX and torch."""
    case = CASES[name]
    problems = (jax_problem(case), torch_problem(case))
    return tuple(
        (problem.backend, quadratic_model(case.curvature, problem)) for problem in problems
    )


def fit(backend: Any, model: Any, config: Any) -> Any:
    """Return the state after one fit; a sign pattern of the gradient stands for a base update."""
    gradient: Tensors = model.gradient
    update = {name: value / (abs(value) + 0.1) for name, value in gradient.items()}
    shapes = {name: tuple(value.shape) for name, value in gradient.items()}
    preconditioner = Preconditioner(backend, config, shapes, fold_output_last)
    sources = {"input": gradient, "gradient": gradient, "update": update}
    return preconditioner.fit(preconditioner.init(gradient), model, sources)


def as_numpy(array: Array) -> np.ndarray:
    return array.detach().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)


def named(factors: dict[str, dict[str, Array]]) -> dict[str, np.ndarray]:
    return {
        f"{block.replace('.', '/')}:{name}": as_numpy(value)
        for block, own in factors.items()
        for name, value in own.items()
    }


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("case", CASES)
def test_factors_agree(case, structure):
    (jax_backend, jax_model), (torch_backend, torch_model) = models(case)
    for solver in SOLVERS:
        if solver == "direct" and structure not in DIRECT:
            continue
        config = configure(
            curvature=CASES[case].curvature,
            structure=structure,
            structure_options=STRUCTURE_OPTIONS.get(structure),
            inner_solver=solver,
            solver_options=SOLVER_OPTIONS[solver],
            damping=0.3,
            ema_decay=0.0,
            apply_to="update",
        )
        # Compiling each of these fits would take far longer than running them operation by operation.
        with jax.disable_jit():
            ours = fit(jax_backend, jax_model, config)
        theirs = fit(torch_backend, torch_model, config)
        assert int(ours.last_fit.status) == int(theirs.last_fit.status)
        actual, expected = named(ours.factors), named(theirs.factors)
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert actual[name].dtype == value.dtype == np.float64
            np.testing.assert_allclose(actual[name], value, rtol=TOLERANCE, atol=TOLERANCE)
        if structure == "lodo" and int(ours.last_fit.status) == Status.OBJECTIVE_ROSE:
            # A learning rate that suits one factor is too long for a product of many.
            continue
        assert float(ours.last_fit.objective) < float(ours.last_fit.objective_start)


@pytest.mark.parametrize("case", ["newton", "categorical", "framewise"])
def test_a_compiled_fit_gives_the_factors_of_torch(case):
    """The same through ``jit``, where loops and conditions are the compiler's."""
    config = configure(
        curvature=CASES[case].curvature,
        structure="kronecker",
        inner_solver="conjugate_gradient",
        solver_options={"steps": 2},
        damping=0.3,
        ema_decay=0.0,
    )

    def compiled() -> Any:
        problem = jax_problem(CASES[case])
        return fit(problem.backend, quadratic_model(CASES[case].curvature, problem), config)

    actual = named(jax.jit(compiled)().factors)
    for name, value in named(fit(*models(case)[1], config).factors).items():
        np.testing.assert_allclose(actual[name], value, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("annealing", [None, Annealing(total_steps=4, solved=0.75, measured=0.5)])
@pytest.mark.parametrize("apply_to", ["gradient", "update"])
def test_training_steps_agree(apply_to, annealing):
    """Both shells around their framework's SGD with momentum, over refreshes."""
    case = CASES["categorical"]
    config = configure(
        curvature=case.curvature,
        structure="kronecker",
        solver_options={"steps": 3, "learning_rate": 0.02},
        update_interval=2,
        ema_decay=0.5,
        curvature_batch_size=5,
        chunk_size=2,
        apply_to=apply_to,
        annealing=annealing,
    )
    assert int(check_training(case, config).fits) == 2


@pytest.mark.parametrize("slopes", [True, False])
def test_training_steps_agree_where_a_multiplier_shortens_them(slopes):
    case = CASES["categorical"]
    config = configure(
        curvature=case.curvature,
        solver_options={"steps": 1, "learning_rate": 1e-6},  # nearly the identity
        update_interval=2,
        apply_to="update",
        multiplier=AdaptiveMultiplier(slopes=slopes),
    )
    multiplier = check_training(case, config, rate=40.0, steps=8).multiplier
    assert int(multiplier.losses) == 4
    assert 0.125 <= float(multiplier.value) < 1.0


def test_training_steps_agree_where_an_annealing_keeps_its_pace():
    """Momentum makes every step longer than the ones before."""
    case = CASES["categorical"]
    rule = Annealing(total_steps=20, solved=0.1, measured=0.1, growth=1.0, memory=3)
    config = configure(curvature=case.curvature, apply_to="update", annealing=rule)
    pace = check_training(case, config, steps=8).pace
    assert int(pace.steps) == 8 - rule.start
    free = replace(config, annealing=replace(rule, growth=100.0))
    assert float(pace.length) < 0.9 * float(check_training(case, free, steps=8).pace.length)


def check_training(case: Case, config: Any, **settings: Any) -> Any:
    """Compare parameters, multiplier and pace after some steps; return the preconditioner's state."""
    arrays = numpy_batch(False)
    expected, own = torch_training(case, config, arrays, **settings)
    actual, other = jax_training(case, config, arrays, **settings)
    assert int(own.fits) == int(other.fits) > 0
    pairs = [(named({"": expected}), named({"": actual}))]
    pairs += [
        (getattr(own, name)._asdict(), getattr(other, name)._asdict())
        for name in ("multiplier", "pace")
    ]
    for ours, theirs in pairs:
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"anchor"}:
            np.testing.assert_allclose(theirs[name], ours[name], rtol=TOLERANCE, atol=TOLERANCE)
    for name, value in own.multiplier.anchor.items():
        np.testing.assert_allclose(
            other.multiplier.anchor[name.replace(".", "/")], value, rtol=TOLERANCE, atol=TOLERANCE
        )
    return other


def torch_training(
    case: Case, config: Any, arrays: Any, rate: float = 0.1, steps: int = 4
) -> tuple[dict[str, Any], Any]:
    model = Network()
    batch = tuple(torch.tensor(array) for array in arrays)

    def loss(outputs, batch):
        return case.loss(lambda x: torch.log_softmax(x, -1), None, outputs, *batch[1:])

    optimizer = llqr.torch.LLQR(
        torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9),
        model,
        loss,
        config,
        outputs_fn=lambda model, batch: model(batch[0])[0],
    )
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(batch[0])[0], batch).backward()
        optimizer.step(batch=batch)
    found = {name.replace(".", "/"): value for name, value in model.named_parameters()}
    return found, optimizer._state


def jax_training(
    case: Case, config: Any, arrays: Any, rate: float = 0.1, steps: int = 4
) -> tuple[dict[str, Any], Any]:
    batch = tuple(map(jnp.asarray, arrays))

    def outputs(params, batch):
        hidden = jnp.tanh(batch[0] @ params["first"]["kernel"] + params["first"]["bias"])
        return hidden @ params["second"]["kernel"] + params["second"]["bias"]

    def loss(outputs, batch):
        return case.loss(jax.nn.log_softmax, None, outputs, *batch[1:])

    optimizer = llqr.jax.llqr(
        optax.sgd(rate, momentum=0.9), outputs_fn=outputs, loss_fn=loss, config=config
    )
    params = jax.tree.map(jnp.asarray, weights())
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(lambda params: loss(outputs(params, batch), batch))(params)
        updates, state = optimizer.update(gradient, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return llqr.jax.named_leaves(params), state.preconditioner
