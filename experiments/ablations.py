"""Variants of LLQR that change one thing each: what a reviewer asks to see switched off or exchanged.

All precondition AdamW's update by a Kronecker-factored U that keeps its norm, under the same schedule and
search space:

    fitted            Fisher, conjugate gradient from the identity, fits averaged, all layers together
    identity          U stays the identity: AdamW's steps, but the seconds of fits and of applying U
    warm_start        every fit starts from the factors in use
    longer            ten inner steps in place of three
    per_layer         C without its blocks between layers
    newton            the Hessian in place of the Fisher
    gauss_newton      the Hessian of the loss of the linearised network
    published_solver  50 steps of gradient descent with momentum, as published
    gradient          U applied to the gradient, before Adam
    ungrafted         U changes the length of the update too
    diagonal          another structure
    ekfac             another structure
    direct            a span of Adam's update and the gradient, solved for directly
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llqr.algoperf.recipes import Recipe
from llqr.algoperf.rulesets import external_tuning
from llqr.backend import Backend, Tensors
from llqr.config import LLQRConfig, check_known
from llqr.curvature import AbstractCurvature, GaussNewton, Hessian, Linearisation, LossHessian
from llqr.solvers import ConjugateGradient, GradientDescent

UPDATE_INTERVAL = 20
NOTHING = 1e-30
"""Inner learning rate that leaves a factor of 1 what it is."""


@dataclass(frozen=True, kw_only=True)
class PerLayer(AbstractCurvature):
    """C without its blocks between layers: Σ_l P_l C P_l, one product per layer.

    Attributes:
        whole: C.
    """

    whole: AbstractCurvature

    @property
    def divides_by_normaliser(self) -> bool:
        """As the whole does."""
        return self.whole.divides_by_normaliser

    @property
    def output_metric(self) -> Any:
        """That of the whole."""
        return self.whole.output_metric

    def chunk_product(
        self, backend: Backend, linearisation: Linearisation, direction: Tensors
    ) -> Tensors:
        """Return Σ_l P_l C P_l v."""
        product: Tensors = {}
        for layer in dict.fromkeys(layer_of(name) for name in direction):
            part = {
                name: value if layer_of(name) == layer else value * 0.0
                for name, value in direction.items()
            }
            found = self.whole.chunk_product(backend, linearisation, part)
            product |= {name: found[name] for name in found if layer_of(name) == layer}
        return {name: product[name] for name in direction}


def layer_of(name: str) -> str:
    """Return a parameter's name without its last component, in either framework's form."""
    return name.replace("/", ".").rpartition(".")[0]


def _published_solver(config: LLQRConfig) -> LLQRConfig:
    solver = GradientDescent(steps=50, learning_rate=1e-3, momentum=0.9, clip_norm=5.0)
    return replace(config, inner_solver=solver)


def _identity(config: LLQRConfig) -> LLQRConfig:
    return replace(config, inner_solver=GradientDescent(steps=1, learning_rate=NOTHING))


Change = Callable[[LLQRConfig], LLQRConfig]

CHANGES: Mapping[str, Change] = {
    "fitted": lambda config: config,
    "identity": _identity,
    "per_layer": lambda config: replace(config, curvature=PerLayer(whole=config.curvature)),
    "newton": lambda config: replace(config, curvature=Hessian()),
    "gauss_newton": lambda config: replace(config, curvature=GaussNewton(metric=LossHessian())),
    "published_solver": _published_solver,
    "gradient": lambda config: replace(config, apply_to="gradient"),
    "warm_start": lambda config: replace(config, warm_start=True),
    "longer": lambda config: replace(config, inner_solver=ConjugateGradient(steps=10)),
    "ungrafted": lambda config: replace(config, grafting="none"),
    "diagonal": lambda config: config,
    "ekfac": lambda config: config,
    "direct": lambda config: config,
}
STRUCTURES = {"diagonal": "diagonal", "ekfac": "ekfac", "direct": "span"}
"""Structures of variants that are not Kronecker-factored."""


@dataclass(frozen=True, kw_only=True)
class Variant(Recipe):
    """A recipe with a change to its configuration.

    Attributes:
        change: of the configuration.
    """

    change: Change

    def config(self, names: Any, metric: Any = None, plan: Any = None) -> LLQRConfig:
        """Return the changed configuration; see :meth:`llqr.algoperf.recipes.Recipe.config`."""
        return self.change(super().config(names, metric, plan))


def variant(workload: Any, hyperparameters: Any) -> Variant:
    """Return the recipe of a point.

    Args:
        workload: for its ``step_hint``.
        hyperparameters: learning rate, decays and warm-up as for LLQR, and ``variant``.

    Returns:
        The recipe. Where lengths are solved for the learning rate is a factor near 1, so it is taken 100
        times as large there.
    """
    name = hyperparameters.variant
    check_known("variant", name, CHANGES)
    structure = STRUCTURES.get(name, "kronecker")
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    solved = structure == "span"
    point = _Point(
        learning_rate=100.0 * rate if solved else rate,
        one_minus_beta1=hyperparameters.one_minus_beta1,
        beta2=hyperparameters.beta2,
        # There the decay is what remains to be done over the whole run.
        weight_decay=rate * decay * workload.step_hint if solved else decay,
        warmup_factor=hyperparameters.warmup_factor,
        structure=structure,
    )
    recipe = external_tuning(workload, point)
    return Variant(**vars(recipe), change=CHANGES[name])


@dataclass(frozen=True, kw_only=True)
class _Point:
    learning_rate: float
    one_minus_beta1: float
    beta2: float
    weight_decay: float
    warmup_factor: float
    structure: str
    label_smoothing: float = 0.0
    dropout_rate: float = 0.0
    update_interval: int = UPDATE_INTERVAL
