"""Names become objects in one place, and bad settings are refused with a remedy."""

import numpy as np
import pytest

from llqr import config, divergences, solvers, structures
from llqr.config import LLQRConfig, configure
from llqr.curvature import GaussNewton, Hessian, LossHessian
from llqr.damping import ConstantDamping, GradientNormDamping

FISHER = GaussNewton(metric=divergences.Categorical())


@pytest.mark.parametrize("name", config.STRUCTURES)
def test_every_structure_has_a_name(name):
    built = configure(structure=name).structure
    assert isinstance(built, structures.AbstractStructure)
    assert type(built) is config.STRUCTURES[name]


def test_every_final_class_has_a_name():
    exported = {
        value
        for module, base in (
            (structures, structures.AbstractStructure),
            (solvers, solvers.AbstractInnerSolver),
        )
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    assert exported == set(config.STRUCTURES.values()) | set(config.SOLVERS.values())


def test_solvers_by_name():
    found = {name: type(configure(inner_solver=name).inner_solver) for name in config.SOLVERS}
    assert found == {
        "momentum": solvers.GradientDescent,
        "adam": solvers.Adam,
        "conjugate_gradient": solvers.ConjugateGradient,
        "direct": solvers.DirectSolve,
    }


def test_curvatures_by_name():
    make = config.make_curvature
    assert make("newton") == Hessian()
    assert make("gauss_newton") == GaussNewton(metric=LossHessian())
    assert make("gauss_newton", curvature_reduction="sum").reduction == "sum"
    assert make("fisher") == FISHER
    assert make("fisher", likelihood="laplace") == GaussNewton(metric=divergences.Laplace())
    given = divergences.Gaussian(precision=2.0)
    assert make("fisher", likelihood=given).metric is given
    renyi = divergences.Renyi(order=0.3, base=divergences.Bernoulli())
    assert make("renyi", likelihood="bernoulli", renyi_order=0.3).metric == renyi
    summed = divergences.Categorical() + divergences.Gaussian(precision=0.01)
    assert make("fisher", output_metric=0.01).metric == summed


@pytest.mark.parametrize("name", config.LIKELIHOODS)
def test_likelihoods_by_name(name):
    assert isinstance(config.make_likelihood(name), divergences.AbstractMetric)


def test_options_reach_the_objects():
    built = configure(
        curvature="renyi",
        curvature_options={"renyi_order": 2.0, "curvature_reduction": "sum"},
        structure="kronecker",
        structure_options={"max_factor_dim": 7},
        inner_solver="conjugate_gradient",
        solver_options={"steps": 3},
        damping=0.25,
        update_interval=10,
        ema_decay=0.5,
    )
    assert built == LLQRConfig(
        curvature=GaussNewton(
            metric=divergences.Renyi(order=2.0, base=divergences.Categorical()), reduction="sum"
        ),
        structure=structures.Kronecker(max_factor_dim=7),
        inner_solver=solvers.ConjugateGradient(steps=3),
        damping=ConstantDamping(value=0.25),
        update_interval=10,
        ema_decay=0.5,
    )


def test_objects_pass_through():
    def choose(name, shape):
        return structures.Diagonal()

    curvature, solver, damping = Hessian(), solvers.Adam(), GradientNormDamping(initial=2.0)
    built = configure(curvature=curvature, structure=choose, inner_solver=solver, damping=damping)
    assert built.curvature is curvature and built.structure is choose
    assert built.inner_solver is solver and built.damping is damping


def test_damping_by_name_and_number():
    assert configure(damping="gradient_norm").damping == GradientNormDamping()
    assert configure(damping=1).damping == ConstantDamping(value=1.0)
    assert configure(damping=np.float32(0.5)).damping == ConstantDamping(value=0.5)


UNKNOWN = [
    ({"curvature": "hessian"}, "unknown curvature 'hessian'; known: fisher, gauss_newton, newton"),
    ({"structure": "diag"}, "unknown structure 'diag'; known: dense, diagonal, ekfac, kronecker"),
    ({"inner_solver": "cg"}, "unknown inner_solver 'cg'; known: adam, conjugate_gradient, direct"),
    ({"damping": "auto"}, "unknown damping 'auto'; known: gradient_norm; or pass a number"),
    (
        {"curvature_options": {"likelihood": "poisson"}},
        "unknown likelihood 'poisson'; known: bernoulli, categorical, framewise_categorical",
    ),
    ({"apply_to": "grad"}, "unknown apply_to 'grad'; known: gradient, update"),
    ({"grafting": "adam"}, "unknown grafting 'adam'; known: none, norm"),
]


@pytest.mark.parametrize("settings, message", UNKNOWN)
def test_unknown_names_list_the_known_ones(settings, message):
    with pytest.raises(ValueError, match=message):
        configure(**settings)


OPTIONS = [
    ({"interval": 3}, "unknown setting 'interval'; known: .*update_interval"),
    (
        {"structure": "kronecker", "structure_options": {"cap": 3}},
        "unknown option for structure 'kronecker': 'cap'; known: max_factor_dim",
    ),
    (
        {"inner_solver": "adam", "solver_options": {"momentum": 0.9}},
        "unknown option for inner_solver 'adam': 'momentum'; known: b1, b2, clip_norm",
    ),
    (
        {"curvature_options": {"reduction": "sum"}},
        "unknown curvature option 'reduction'; known: curvature_reduction, likelihood",
    ),
    (
        {"structure": structures.Diagonal(), "structure_options": {"floor": 0.1}},
        r"options for structure go with a name, got \{'floor': 0.1\} beside Diagonal.*on the object",
    ),
    (
        {"curvature": Hessian(), "curvature_options": {"likelihood": "gaussian"}},
        "options for curvature go with a name",
    ),
    (
        {"inner_solver": solvers.Adam(), "solver_options": {"steps": 2}},
        "options for inner_solver go with a name",
    ),
]


@pytest.mark.parametrize("settings, message", OPTIONS)
def test_misplaced_options_are_refused(settings, message):
    with pytest.raises(TypeError, match=message):
        configure(**settings)


RANGES = [
    ({"damping": -1.0}, "damping must be a finite number of at least 0, got -1.0"),
    ({"damping": float("nan")}, "damping must be a finite number of at least 0, got nan"),
    ({"damping": float("inf")}, "damping must be a finite number of at least 0, got inf"),
    ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), got 1.0"),
    ({"ema_decay": -0.1}, r"ema_decay must lie in \[0, 1\), got -0.1"),
    ({"ema_decay": "0.9"}, r"ema_decay must lie in \[0, 1\), got '0.9'"),
    ({"update_interval": 0}, "update_interval must be an integer of at least 1, got 0"),
    ({"update_interval": 2.5}, "update_interval must be an integer of at least 1, got 2.5"),
    ({"curvature_batch_size": 0}, "curvature_batch_size must be an integer of at least 1, got 0"),
    ({"chunk_size": -4}, "chunk_size must be an integer of at least 1, got -4"),
    (
        {"curvature_options": {"output_metric": -1.0}},
        "output_metric must be .*at least 0, got -1.0",
    ),
    (
        {"curvature_options": {"curvature_reduction": "max"}},
        'curvature_reduction must be "mean" or',
    ),
    (
        {"curvature": "renyi", "curvature_options": {"renyi_order": 0.0}},
        "order must be a finite number above 0, got 0.0",
    ),
    (
        {"curvature": "newton", "curvature_options": {"curvature_reduction": "sum"}},
        "'newton' is the Hessian of the loss itself, so it takes neither",
    ),
    (
        {"curvature": "gauss_newton", "curvature_options": {"output_metric": 0.1}},
        "output_metric belongs to 'fisher' and 'renyi', got 0.1",
    ),
]


@pytest.mark.parametrize("settings, message", RANGES)
def test_values_out_of_range_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        configure(**settings)


OBJECTS = [
    ({"curvature": "fisher"}, "curvature must be an object such as Hessian.*'fisher'.*configure"),
    ({"structure": "diagonal"}, "structure must be an object such as Diagonal.*'diagonal'"),
    ({"structure": structures.Diagonal}, "structure must be an object such as .*class"),
    ({"inner_solver": None}, "inner_solver must be an object such as ConjugateGradient.*None"),
    ({"damping": True}, "damping must be an object such as ConstantDamping.*got True"),
    ({"damping": 0.1}, "damping must be an object such as ConstantDamping.*got 0.1"),
    ({"fold": 1}, "fold must be an object such as structures.fold_output_last.*got 1"),
    ({"warm_start": "yes"}, "warm_start must be True or False, got 'yes'"),
    ({"ema_debias": 1}, "ema_debias must be True or False, got 1"),
]


@pytest.mark.parametrize("settings, message", OBJECTS)
def test_the_record_takes_objects_only(settings, message):
    with pytest.raises(TypeError, match=message):
        LLQRConfig(**{"curvature": FISHER, **settings})


def test_schedules_are_welcome_and_not_called():
    def never(step):
        raise AssertionError("schedules are for later")

    built = LLQRConfig(curvature=FISHER, update_interval=never, ema_decay=never)
    assert built.update_interval is never and built.ema_decay is never
