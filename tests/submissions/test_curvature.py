"""Event weights against the loss's own second derivative, the choice of examples, and plans."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from llqr.algoperf import batch_sizes, grouping, planning
from llqr.algoperf.batches import example_count, is_sliceable, take_evenly
from llqr.algoperf.curvature_batches import BATCH, PADDINGS, WEIGHTS, curvature_batch
from llqr.algoperf.jax_curvature import JaxObjective
from llqr.algoperf.likelihoods import likelihood_of, specification
from llqr.algoperf.torch_curvature import TorchObjective
from llqr.backend import NumpyBackend
from llqr.intervals import AdaptiveInterval
from llqr.structures import Span
from tests.submissions import tiny


def chosen_batch(workload, batch, outputs):
    objective = JaxObjective(workload=workload)
    return objective, curvature_batch(
        batch,
        outputs,
        loss_type=workload.loss_type,
        products=4,
        probe=lambda likelihood: objective.probe(likelihood, outputs, batch),
    )


@pytest.mark.parametrize("kind", ["softmax", "tokens", "labels", "sigmoid", "squared", "graph"])
def test_the_weighted_fisher_is_the_hessian_of_the_loss(kind):
    # Softmax, sigmoid and squared error are canonical: their Fisher is their Hessian, whatever the targets.
    workload = tiny.JaxTiny(kind)
    batch = tiny.make_batch(kind, 6)
    shape = (6, tiny.FRAMES, tiny.CLASSES) if kind == "tokens" else (6, tiny.CLASSES)
    rng = np.random.default_rng(1)
    outputs, tangent = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
    objective, chosen = chosen_batch(workload, batch, outputs)

    def loss(point):
        return objective.loss(point, chosen.cut)[0]

    _, expected = jax.jvp(jax.grad(loss), (outputs,), (tangent,))
    own = chosen.likelihood.metric.product(
        NumpyBackend(), np.asarray(outputs), np.asarray(chosen.cut[WEIGHTS]), np.asarray(tangent)
    )
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "squared", "absolute", "labels"])
def test_torch_probes_the_same_weights_as_jax(kind):
    batch = tiny.make_batch(kind, 6)
    outputs = np.random.default_rng(1).normal(size=(6, tiny.CLASSES)).astype(np.float32)
    likelihood = likelihood_of(tiny.JaxTiny(kind).loss_type, outputs.shape, batch["weights"])
    in_jax = JaxObjective(workload=tiny.JaxTiny(kind)).probe(
        likelihood, jnp.asarray(outputs), batch
    )
    in_torch = TorchObjective(workload=tiny.TorchTiny(kind)).probe(
        likelihood, torch.as_tensor(outputs), tiny.to_torch(batch)
    )
    np.testing.assert_allclose(in_jax, in_torch, rtol=1e-5, atol=1e-7)


def test_an_absolute_error_has_the_weights_of_its_mean():
    batch = tiny.make_batch("absolute", 6)
    _, chosen = chosen_batch(tiny.JaxTiny("absolute"), batch, jnp.zeros((6, tiny.CLASSES)))
    expected = np.repeat(batch["weights"][:, None], tiny.CLASSES, axis=1) / tiny.CLASSES
    np.testing.assert_allclose(chosen.cut[WEIGHTS], expected, rtol=1e-6)


def test_ctc_counts_unpadded_frames_and_keeps_the_paddings():
    batch = tiny.make_batch("ctc", 6)
    paddings = batch["inputs"][1]
    outputs = (jnp.zeros((6, tiny.FRAMES, tiny.CLASSES)), jnp.asarray(paddings))
    objective, chosen = chosen_batch(tiny.JaxTiny("ctc"), batch, outputs)
    np.testing.assert_array_equal(chosen.cut[WEIGHTS], 1 - paddings)
    loss, count = objective.loss(outputs[0], chosen.cut)
    assert float(count) == (1 - batch["targets"][1]).sum() and np.isfinite(float(loss))
    assert PADDINGS in chosen.cut


def test_a_graph_is_not_cut():
    batch = tiny.make_batch("graph", 6)
    _, chosen = chosen_batch(tiny.JaxTiny("graph"), batch, jnp.zeros((6, tiny.CLASSES)))
    assert set(chosen.whole) == {"inputs"} and set(chosen.cut[BATCH]) == {"targets", "weights"}
    assert chosen.plan.examples == 6 and chosen.plan.chunk_size is None


def test_sliceability_and_example_count():
    array = np.zeros((4, 2))
    assert is_sliceable({"a": (array, [array]), "b": 3, "c": None}, 4)
    assert not is_sliceable((array, np.zeros(3)), 4)
    assert not is_sliceable(tiny.Graph(array, array), 4)
    assert example_count({"targets": (array, array)}) == 4
    with pytest.raises(ValueError, match="at least one example"):
        example_count({"targets": np.zeros((0, 2))})


def test_examples_are_taken_evenly_from_every_shard():
    batch = {"x": np.arange(24), "n": 7}
    kept = take_evenly(batch, 24, 8, shards=4)
    np.testing.assert_array_equal(kept["x"], [0, 3, 6, 9, 12, 15, 18, 21])
    assert kept["n"] == 7
    # Four processes with a quarter each take the same ones.
    own = [take_evenly(batch["x"][i : i + 6], 6, 2) for i in range(0, 24, 6)]
    np.testing.assert_array_equal(np.concatenate(own), kept["x"])
    assert take_evenly(batch, 24, 24) is batch


# Workloads by shapes alone: examples, output shape, event axes, bytes of an example, products.
VOCABULARY = {"output_shape": (128, 256, 32_000), "event_axes": 1, "example_bytes": 5_000}
IMAGES = {"output_shape": (1024, 1000), "event_axes": 1, "example_bytes": 224 * 224 * 12}


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize(
    ("examples", "shapes"), [(128, VOCABULARY), (1024, IMAGES), (248, IMAGES), (1000, IMAGES)]
)
def test_plans_stay_inside_memory_and_divide_among_shards(examples, shapes, shards):
    shapes = {**shapes, "output_shape": (examples, *shapes["output_shape"][1:])}
    plan = planning.make_plan(examples=examples, products=64, shards=shards, **shapes)
    assert plan.examples % shards == 0 and 0 < plan.examples <= examples
    at_once = (plan.chunk_size or plan.examples) // shards
    assert at_once <= max(examples // shards // 4, 1)
    assert plan.examples % (plan.chunk_size or 1) == 0
    numbers = np.prod(shapes["output_shape"][1:])
    if plan.store_tangents:
        assert 64 * 2 * 4 * numbers * at_once <= planning.GRAM_BYTES
    assert plan.cost / plan.interval(0.25, 20, 100) <= 0.25 or plan.interval(0.25, 20, 100) == 100


def test_a_small_batch_is_used_whole_and_at_once():
    plan = planning.make_plan(
        examples=64, output_shape=(64, 10), event_axes=1, example_bytes=256, products=8
    )
    assert (plan.examples, plan.chunk_size, plan.store_tangents) == (64, None, True)
    # Eight forward products; two losses of a third each, two gradients and the half's.
    assert plan.cost == pytest.approx(8 * 2 / 3 + 2 / 3 + 2 + 1 / 2)


@pytest.mark.parametrize("products", [2, 8, 32, 64])
@pytest.mark.parametrize("examples", [1, 64, 128, 1024])
def test_refreshes_of_a_restless_solution_cost_no_more_than_a_logarithm(examples, products):
    """The interval is at its shortest all the time, as if every fit looked new."""
    plan = planning.make_plan(
        examples=examples,
        output_shape=(examples, 10),
        event_axes=1,
        example_bytes=256,
        products=products,
    )
    rule = AdaptiveInterval(longest=plan.interval(0.05, 20, 100), patience=plan.patience)
    one = np.ones((), np.int32)
    steps, due, spent, constant = 300, 0, 0.0, planning.EARLY_GRADIENTS
    for step in range(steps):
        if step == due:
            spent += plan.cost
            due += int(rule.next(NumpyBackend(), one, 0.0 * one, -1.0 * one, one * step))
        # Whole steps round the interval down, by less than one step.
        assert spent <= 2.0 * constant * np.log1p((step + 1) * plan.cost / constant) + plan.cost
    assert spent >= plan.cost * steps / (1 + steps / plan.patience)


@pytest.mark.parametrize(
    ("examples", "events", "kept"),
    [
        (1, 1, 1),
        (32, 1, 32),
        (128, 1, 64),
        (512, 1, 128),
        (1024, 1, 256),
        (2048, 1, 256),
        (8192, 1, 512),
        (128, 64, 8),
        (64, 50, 6),
    ],
)
def test_how_many_examples_a_curvature_batch_has(examples, events, kept):
    shapes = {"output_shape": (examples, events, 10), "event_axes": 1, "example_bytes": 8}
    assert planning.make_plan(examples=examples, products=8, **shapes).examples == kept


def test_groups_are_as_fine_as_the_limit_allows():
    names = [
        f"block_{b}/layer_{n}/{k}" for b in range(3) for n in range(4) for k in ("bias", "kernel")
    ]

    def owners(limit):
        structure = grouping.step_sizes(names, directions=("update",), max_groups=limit)
        return sorted({structure.owner(name) for name in names}), structure

    assert owners(24)[0] == sorted(names)
    assert len(owners(23)[0]) == 12 and isinstance(owners(23)[1], Span)
    assert owners(11)[0] == ["block_0", "block_1", "block_2"]
    assert owners(2)[0] == [grouping.EVERYTHING]
    assert grouping.prefix("net.layer1.weight", 2) == "net.layer1"
    with pytest.raises(ValueError, match="max_groups must be an integer of at least 1, got 0"):
        owners(0)


def test_huge_tensors_are_left_to_the_base_optimizer():
    shapes = {"embedding": (2**20, 128), "dense": (512, 512)}
    assert grouping.too_large(shapes) == {"embedding"}


def test_batch_sizes_of_variants():
    assert batch_sizes.batch_size("ogbg_gelu") == batch_sizes.batch_size("ogbg") == 512
    assert batch_sizes.batch_size("imagenet_vit_glu") == 512


def test_unknown_loss_types_and_specifications_are_refused():
    with pytest.raises(ValueError, match="loss_type must be one of"):
        likelihood_of(SimpleNamespace(name="HINGE"), (2,), None)
    assert specification(tiny.JaxTiny()) is tiny
    with pytest.raises(TypeError, match="also defines ForwardPassMode"):
        specification(SimpleNamespace(loss_type="SOFTMAX_CROSS_ENTROPY"))
