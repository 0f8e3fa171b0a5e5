"""Recompute every entry of a golden file with llqr, in either framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from golden.file import GoldenFile
from llqr.config import LLQRConfig
from llqr.curvature import AbstractCurvature, GaussNewton, Hessian
from llqr.divergences import Categorical
from llqr.preconditioner import Preconditioner
from llqr.solvers import GradientDescent
from llqr.structures import EKFAC, Dense, Diagonal, Kronecker, Scalar, SeparableEKFAC

Named = dict[str, np.ndarray]

CURVATURES: dict[str, AbstractCurvature] = {
    "newton": Hessian(),
    "fisher_sum": GaussNewton(metric=Categorical(), reduction="sum"),
    "fisher_mean": GaussNewton(metric=Categorical(), reduction="mean"),
}
_UNCAPPED = 1 << 30
STRUCTURES = {
    "scalar": Scalar(),
    "diagonal": Diagonal(),
    "dense": Dense(max_factor_dim=_UNCAPPED),
    "kfac": Kronecker(max_factor_dim=_UNCAPPED),
    "e-kfac": EKFAC(max_factor_dim=_UNCAPPED),
    "sep-e-kfac": SeparableEKFAC(max_factor_dim=_UNCAPPED),
}
EXACT_DAMPING = 1e-2


class Problem(Protocol):
    """The golden network in one framework, with parameters named as in the file."""

    backend: Any

    def outputs(self) -> np.ndarray:
        """Return the log-probabilities [B, classes]."""
        ...

    def loss(self) -> float:
        """Return the mean cross-entropy with label smoothing."""
        ...

    def model(self, curvature: AbstractCurvature) -> Any:
        """Return llqr's quadratic model."""
        ...

    def to_framework(self, values: Named) -> Any:
        """Return arrays of the framework."""
        ...

    def to_numpy(self, values: Any) -> Named:
        """Return NumPy arrays."""
        ...


def recompute(golden: GoldenFile, problem: Problem) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (entry, our value) for every entry of the file that this library can compute."""
    models = {name: problem.model(curvature) for name, curvature in CURVATURES.items()}
    values = _basic(golden, problem, models)
    for entry in golden.results:
        if entry in values:
            yield entry, values[entry]
    for name, model in models.items():
        if any(entry.startswith(f"exact_step/{name}_damping_1e-2/") for entry in golden.results):
            yield from _known(golden, f"exact_step/{name}_damping_1e-2/", _exact(problem, model))
        identity = f"fit/objective_at_identity/{name}"
        if identity in golden.results:
            gradient = problem.to_numpy(model.gradient)
            yield identity, _objective(problem, model, {k: -v for k, v in gradient.items()})
        for structure in STRUCTURES:
            prefix = f"fit/{name}/{structure}/"
            if any(entry.startswith(prefix) for entry in golden.results):
                yield from _known(golden, prefix, _fit(golden, problem, name, structure, model))


def _basic(golden: GoldenFile, problem: Problem, models: dict[str, Any]) -> Named:
    values = {
        "loss": np.asarray(problem.loss()),
        "logprobs": problem.outputs(),
    }
    for name, value in problem.to_numpy(models["newton"].gradient).items():
        values[f"gradient/{name}"] = value
    for kind in CURVATURES:
        product = models[kind].curvature_product(problem.to_framework(golden.probe))
        for name, value in problem.to_numpy(product).items():
            values[f"curvature_product/{kind}/{name}"] = value
    return values


def _known(golden: GoldenFile, prefix: str, values: Named) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in values.items():
        if prefix + name in golden.results:
            yield prefix + name, value


def _flat(values: Named) -> np.ndarray:
    return np.concatenate([values[name].ravel() for name in sorted(values)])


def _unflat(vector: np.ndarray, like: Named) -> Named:
    result, start = {}, 0
    for name in sorted(like):
        result[name] = vector[start : start + like[name].size].reshape(like[name].shape)
        start += like[name].size
    return result


def _exact(problem: Problem, model: Any) -> Named:
    """Return −(C + λI)⁻¹ g by a dense solve with C built column by column."""
    gradient = problem.to_numpy(model.gradient)
    columns = [
        _flat(
            problem.to_numpy(model.curvature_product(problem.to_framework(_unflat(unit, gradient))))
        )
        for unit in np.eye(_flat(gradient).size)
    ]
    matrix = np.stack(columns, axis=1)
    damped = matrix + EXACT_DAMPING * np.eye(len(matrix))
    return _unflat(-np.linalg.solve(damped, _flat(gradient)), gradient)


def _objective(problem: Problem, model: Any, step: Named) -> np.ndarray:
    curved = problem.to_numpy(model.curvature_product(problem.to_framework(step)))
    gradient = _flat(problem.to_numpy(model.gradient))
    return np.asarray(gradient @ _flat(step) + 0.5 * _flat(step) @ _flat(curved))


def _fit(golden: GoldenFile, problem: Problem, curvature: str, structure: str, model: Any) -> Named:
    """Return the step, the objective and the factors after the published inner solver."""
    config = LLQRConfig(
        curvature=CURVATURES[curvature],
        structure=STRUCTURES[structure],
        inner_solver=GradientDescent(
            steps=golden.steps,
            learning_rate=golden.learning_rate,
            momentum=golden.momentum,
            clip_norm=None,
            # The published solver takes all its steps whatever the objective does.
            stop_on_rise=False,
        ),
        ema_decay=0.0,
        fold=lambda name, shape: len(shape) - 1,
    )
    parameters = golden.parameters
    preconditioner = Preconditioner(
        problem.backend, config, {name: value.shape for name, value in parameters.items()}
    )
    sources = {"input": model.gradient}
    state = preconditioner.fit(preconditioner.init(model.gradient), model, sources)
    direction, _ = preconditioner.precondition(state, sources)
    step = {name: -value for name, value in problem.to_numpy(direction).items()}
    values = {f"step/{name}": value for name, value in step.items()}
    values["objective"] = np.asarray(float(state.last_fit.objective))
    factors = {name: problem.to_numpy(value) for name, value in state.factors.items()}
    values.update(_layer_factors(structure, factors))
    return values


def _layer_factors(structure: str, factors: dict[str, Named]) -> Named:
    """Return U/layers_i for structures whose golden factors are one vector per layer."""
    if structure == "scalar":
        return {f"U/{layer}": own["s"] for layer, own in factors.items()}
    if structure != "diagonal":
        return {}
    layers: dict[str, list[np.ndarray]] = {}
    for name in sorted(factors):  # bias before kernel
        layers.setdefault(name.rpartition("/")[0], []).append(factors[name]["d"].ravel())
    return {f"U/{layer}": np.concatenate(parts) for layer, parts in layers.items()}
