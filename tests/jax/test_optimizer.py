"""The optax transformation: its steps against a NumPy reference, and its life inside compiled training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import llqr.jax
from llqr.backend import NumpyBackend
from llqr.config import LLQRConfig
from llqr.jax.naming import Naming
from llqr.preconditioner import Preconditioner
from llqr.quadratic import QuadraticModel
from llqr.solvers import Status
from tests.jax import networks
from tests.jax.networks import Case, quick_jit
from tests.jax.training import (
    assert_trees_equal,
    batches_of,
    loss_on,
    make,
    quick_config,
    train,
    training_step,
)

MLP = networks.mlp


def numpy_reference(case: Case, config: LLQRConfig, batches: list[Any], examples: int) -> Any:
    """Train with the core on NumPy, a dense curvature by autodiff, and momentum SGD written out."""
    naming = Naming.of(case.params)
    preconditioner = Preconditioner(NumpyBackend(), config, naming.shapes)
    vector, restore = ravel_pytree(case.params)

    def named(flat: Any) -> dict[str, np.ndarray]:
        return {key: np.asarray(x) for key, x in naming.flatten(restore(jnp.asarray(flat))).items()}

    def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
        tree = naming.unflatten({key: jnp.asarray(x) for key, x in tensors.items()})
        return np.asarray(ravel_pytree(tree)[0])

    gradient_of = quick_jit(jax.grad(lambda v, batch: loss_on(case, restore(v), batch)))
    hessian_of = quick_jit(jax.hessian(lambda v, batch: loss_on(case, restore(v), batch)))
    theta, momentum = np.asarray(vector), np.zeros(vector.size)
    state = preconditioner.init(named(theta))
    for batch in batches:
        gradient = np.asarray(gradient_of(theta, batch))
        if config.apply_to == "update":
            momentum = gradient + 0.9 * momentum
        sources = {"input": named(gradient), "gradient": named(gradient)}
        if config.apply_to == "update":
            sources |= {"input": named(0.1 * momentum), "update": named(0.1 * momentum)}
        if bool(preconditioner.is_due(state)):
            part = jax.tree.map(lambda leaf: leaf[:examples], batch)
            dense = np.asarray(hessian_of(theta, part))
            slope = named(gradient_of(theta, part))
            model = QuadraticModel(
                gradient=slope, curvature_product=lambda v, dense=dense: named(dense @ flat(v))
            )
            in_gradient_mode = config.apply_to == "gradient"
            fitted_on = {"input": slope, "gradient": slope} if in_gradient_mode else sources
            state = preconditioner.fit(state, model, fitted_on)
        steered, state = preconditioner.precondition(state, sources)
        state = preconditioner.advance(state)
        if config.apply_to == "update":
            theta = theta - flat(steered)
        else:
            momentum = flat(steered) + 0.9 * momentum
            theta = theta - 0.1 * momentum
    return restore(jnp.asarray(theta)), state


@pytest.mark.parametrize("apply_to", ["gradient", "update"])
@pytest.mark.parametrize("structure", ["kronecker", "span"])
def test_steps_match_the_numpy_reference(apply_to, structure):
    """Order of fit and step, averaging, intervals, the curvature batch, chunks and signs."""
    options = {"span": {"directions": ("gradient", "input")}}.get(structure)
    config = quick_config(
        curvature="newton",
        structure=structure,
        structure_options=options,
        damping=0.1,
        curvature_batch_size=5,
        chunk_size=2,
        apply_to=apply_to,
    )
    case = MLP()
    batches = batches_of(case, 5)
    params, state = train(case, make(case, optax.sgd(0.1, momentum=0.9), config), batches)
    expected, reference = numpy_reference(case, config, batches, 5)
    assert_trees_equal(params, expected, 1e-11)
    assert int(state.preconditioner.fits) == int(reference.fits) == 3
    for block, factors in reference.factors.items():
        for name, value in factors.items():
            np.testing.assert_allclose(
                state.preconditioner.factors[block][name], value, rtol=1e-10, atol=1e-12
            )


def test_one_compilation_serves_steps_with_and_without_a_refresh():
    case, traces = MLP(), []
    optimizer = make(case, optax.adam(0.01), quick_config())
    step = quick_jit(training_step(case, optimizer, traces), donate_argnums=(0, 1))
    params, state = jax.tree.map(jnp.copy, case.params), optimizer.init(case.params)
    fits = []
    for batch in batches_of(case, 5):
        params, state = step(params, state, batch)
        fits.append(int(state.preconditioner.fits))
    assert fits == [1, 1, 2, 2, 3]
    assert len(traces) == 1
    assert step._cache_size() == 1


def test_a_scan_over_steps_equals_a_loop():
    case = MLP()
    optimizer, batches = make(case, optax.adam(0.01), quick_config()), batches_of(case, 4)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    step = training_step(case, optimizer)

    def scanned(params, state, stacked):
        return jax.lax.scan(
            lambda carry, batch: (step(*carry, batch), None), (params, state), stacked
        )[0]

    params, state = quick_jit(scanned)(case.params, optimizer.init(case.params), stacked)
    expected, reference = train(case, optimizer, batches)
    assert_trees_equal((params, state), (expected, reference), 1e-13)


def test_state_holds_arrays_only_and_no_buffer_twice():
    state = make(MLP(), optax.adam(0.01), quick_config()).init(MLP().params)
    leaves = jax.tree.leaves(state.preconditioner)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(pointers)) == len(pointers)


def test_chain_multi_steps_and_injected_hyperparameters_leave_the_result_alone():
    case, batches = MLP(), batches_of(MLP(), 4)
    config = quick_config()
    plain = make(case, optax.sgd(0.1), config)
    expected, _ = train(case, plain, batches)
    chained = optax.chain(optax.clip_by_global_norm(1e6), plain, optax.scale(1.0))
    injected = optax.inject_hyperparams(lambda rate: make(case, optax.sgd(rate), config))(rate=0.1)
    inside = make(case, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), config)
    for optimizer in (chained, injected, inside):
        params, state = train(case, optimizer, batches)
        assert_trees_equal(params, expected, 1e-13)
        assert "2 fits taken" in llqr.jax.summary(state)
    state.base.hyperparams["learning_rate"] = jnp.asarray(0.0)
    updates, _ = inside.update(case.params, state, case.params, batch=batches[0])
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates))


def test_gradient_accumulation_steps_on_the_mean_with_the_last_batch():
    case, batches = MLP(), batches_of(MLP(), 4)
    plain = make(case, optax.sgd(0.1), quick_config())
    params, state = train(case, optax.MultiSteps(plain, every_k_schedule=2), batches)
    expected, reference = case.params, plain.init(case.params)
    gradient_of = jax.grad(lambda p, batch: loss_on(case, p, batch))
    for first, second in (batches[:2], batches[2:]):
        pair = [gradient_of(expected, batch) for batch in (first, second)]
        mean = jax.tree.map(lambda a, b: 0.5 * (a + b), *pair)
        updates, reference = quick_jit(plain.update)(mean, reference, expected, batch=second)
        expected = optax.apply_updates(expected, updates)
    assert_trees_equal(params, expected, 1e-7)  # optax accumulates in float32
    assert int(state.inner_opt_state.preconditioner.step) == 2


def test_masked_parameters_stay_and_the_rest_moves_as_if_they_were_constants():
    case = MLP()
    frozen = case.params["first"]
    mask = {"first": False, "second": True}
    optimizer = optax.masked(make(case, optax.sgd(0.1), quick_config()), mask)
    gradient = jax.grad(lambda p: loss_on(case, p, case.batch))(case.params)
    state = optimizer.init(case.params)
    update = quick_jit(optimizer.update)
    updates, state = update(gradient, state, case.params, batch=case.batch, full_params=case.params)
    assert_trees_equal(updates["first"], gradient["first"])  # optax.masked passes the rest on

    def alone(params, batch):
        return case.outputs_fn({"first": frozen, **params}, batch)

    part = {"second": case.params["second"]}
    small = make(case._replace(outputs_fn=alone), optax.sgd(0.1), quick_config())
    expected, _ = quick_jit(small.update)(
        {"second": gradient["second"]}, small.init(part), part, batch=case.batch
    )
    assert_trees_equal(updates["second"], expected["second"], 1e-13)
    with pytest.raises(ValueError, match="full_params must be given"):
        optimizer.update(gradient, state, case.params, batch=case.batch)


def test_interval_and_decay_may_be_schedules():
    case, batches = MLP(np.float32), batches_of(MLP(np.float32), 6)
    config = quick_config(
        update_interval=lambda step: jnp.where(step < 2, 1.0, 3.9),
        ema_decay=optax.linear_schedule(0.0, 0.9, 3),
    )
    _, state = train(case, make(case, optax.sgd(0.1), config), batches)
    inner = state.preconditioner
    assert (int(inner.fits), int(inner.next_fit)) == (4, 8)  # fits before steps 0, 1, 2 and 5
    assert inner.factors["first/kernel"]["d"].dtype == jnp.float32


def test_a_gradient_that_is_not_finite_skips_the_step():
    case = MLP()
    optimizer = make(case, optax.adam(0.01), quick_config())
    update = quick_jit(optimizer.update)
    gradient = jax.grad(lambda p: loss_on(case, p, case.batch))(case.params)
    _, state = update(gradient, optimizer.init(case.params), case.params, batch=case.batch)
    for bad in (jnp.nan, jnp.inf):
        broken = {**gradient, "first": jax.tree.map(lambda leaf: leaf + bad, gradient["first"])}  # noqa: B023
        updates, after = update(broken, state, case.params, batch=case.batch)
        assert all(not leaf.any() for leaf in jax.tree.leaves(updates))
        assert_trees_equal(after._replace(skipped=state.skipped), state)
        assert int(after.skipped) == int(state.skipped) + 1
        state = after
    assert "not finite: 2" in llqr.jax.summary(state)
    updates, state = update(gradient, state, case.params, batch=case.batch)
    assert all(leaf.any() for leaf in jax.tree.leaves(updates))
    assert int(state.preconditioner.step) == 2


def test_a_curvature_that_is_not_finite_leaves_the_base_step():
    case, config = MLP(), quick_config(ema_decay=0.0)
    optimizer = make(case, optax.sgd(0.1), config)
    update = quick_jit(optimizer.update)
    gradient = jax.grad(lambda p: loss_on(case, p, case.batch))(case.params)
    start = optimizer.init(case.params)
    broken = (case.batch[0].at[0, 0].set(jnp.nan), case.batch[1])
    updates, state = update(gradient, start, case.params, batch=broken)
    assert_trees_equal(updates, jax.tree.map(lambda leaf: -0.1 * leaf, gradient), 1e-15)
    inner = state.preconditioner
    assert (int(inner.fits), int(inner.rejected), int(inner.next_fit)) == (0, 1, 1)
    assert_trees_equal(inner.factors, start.preconditioner.factors)
    text = llqr.jax.summary(state, case.params, config)
    assert "NOT_FINITE in block 'first/bias'" in text
    assert Status.NOT_FINITE.advice in text
    assert "thrown away" in text
    _, state = update(gradient, state, case.params, batch=case.batch)
    assert int(state.preconditioner.fits) == 1  # tried again at the next step


@pytest.mark.parametrize(
    ("dtype", "factor_dtype"),
    [
        ("bfloat16", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_updates_have_the_parameters_dtype_and_factors_at_least_float32(dtype, factor_dtype):
    case = MLP(jnp.dtype(dtype))
    for apply_to in ("gradient", "update"):
        optimizer = make(case, optax.sgd(0.1, momentum=0.9), quick_config(apply_to=apply_to))
        gradient = jax.grad(lambda p: loss_on(case, p, case.batch))(case.params)
        state = optimizer.init(case.params)
        updates, state = quick_jit(optimizer.update)(gradient, state, case.params, batch=case.batch)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
        factors = jax.tree.leaves(state.preconditioner.factors)
        assert {leaf.dtype for leaf in factors} == {jnp.dtype(factor_dtype)}
        assert int(state.preconditioner.fits) == 1


@pytest.mark.parametrize("kind", ["list", "tuple", "bare"])
def test_any_pytree_of_parameters_serves(kind):
    kernel = networks.normal(0, 3, 3)
    case = MLP()
    wrap = {"list": lambda w: [w, [w]], "tuple": lambda w: (w, {"a": w}), "bare": lambda w: w}[kind]
    case = case._replace(
        params=wrap(kernel),
        outputs_fn=lambda p, batch: batch[0] @ sum(jax.tree.leaves(p)),
    )
    params, state = train(case, make(case, optax.sgd(0.1), quick_config()), batches_of(case, 2))
    assert jax.tree.structure(params) == jax.tree.structure(case.params)
    names = {"list": {"0", "1/0"}, "tuple": {"0", "1/a"}, "bare": {"parameter"}}[kind]
    assert state.preconditioner.factors.keys() == names


def test_further_arguments_reach_the_base_optimizer():
    def update(updates, state, params=None, *, factor, **extra_args):
        return jax.tree.map(lambda leaf: factor * leaf, updates), state

    base = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    case = MLP()
    optimizer = make(case, base, quick_config())
    state = optimizer.init(case.params)
    one, _ = optimizer.update(case.params, state, case.params, batch=case.batch, factor=1.0)
    two, _ = optimizer.update(case.params, state, case.params, batch=case.batch, factor=2.0)
    assert_trees_equal(two, jax.tree.map(lambda leaf: 2.0 * leaf, one), 1e-15)


def test_report_and_summary_are_readable():
    case = MLP(np.float32)
    config = quick_config(structure="kronecker")
    text = llqr.jax.report(jax.eval_shape(lambda: case.params), config)
    assert "first/kernel" in text
    assert "Kronecker" in text or "kronecker" in text
    state = make(case, optax.sgd(0.1), config).init(case.params)
    assert "the solver has not been run" in llqr.jax.summary(state)
    with pytest.raises(ValueError, match="state must hold an LLQRState, got EmptyState"):
        llqr.jax.summary(optax.EmptyState())
