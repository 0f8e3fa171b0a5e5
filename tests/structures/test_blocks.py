"""How parameters become blocks: grouping, folding, choice of structure, the report."""

import re

import numpy as np
import pytest

from llqr.backend import NumpyBackend
from llqr.structures import (
    Dense,
    Diagonal,
    Kronecker,
    Scalar,
    Span,
    fold_output_first,
    fold_output_last,
    make_blocks,
    report,
)
from llqr.structures.base import layer_of
from llqr.structures.blocks import fold_shape

BACKEND = NumpyBackend()


@pytest.mark.parametrize(
    "name, layer",
    [
        ("encoder/layers_0/kernel", "encoder/layers_0"),
        ("layers.0.weight", "layers.0"),
        ("module/attention.in_proj_bias", "module/attention"),
        ("a.b/kernel", "a.b"),
        ("bias", "bias"),
        ("/kernel", "/kernel"),
    ],
)
def test_the_layer_is_the_name_without_its_last_part(name, layer):
    assert layer_of(name) == layer


def test_a_layer_shares_one_scalar_and_joins_in_alphabetical_order(rng):
    shapes = {"b.weight": (2, 3), "a.weight": (2, 2), "a.bias": (2,), "scale": ()}
    blocks = make_blocks(shapes, Scalar())
    assert [(block.name, block.parameters) for block in blocks] == [
        ("a", ("a.bias", "a.weight")),
        ("b", ("b.weight",)),
        ("scale", ("scale",)),
    ]
    values = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    joined = blocks[0].join(BACKEND, values)
    np.testing.assert_array_equal(joined, [*values["a.bias"], *values["a.weight"].reshape(-1)])
    for block in blocks:
        for name, value in block.split(block.join(BACKEND, values)).items():
            np.testing.assert_array_equal(value, values[name])


def test_parameter_structures_do_not_share():
    blocks = make_blocks({"a.weight": (2, 2), "a.bias": (2,)}, Scalar(per="parameter"))
    assert [block.name for block in blocks] == ["a.bias", "a.weight"]


@pytest.mark.parametrize(
    "shape, first, last",
    [
        ((3, 3, 16, 32), (3, 3 * 16 * 32), (3 * 3 * 16, 32)),  # HWIO kernel
        ((32, 16, 3, 3), (32, 16 * 9), (32, 16 * 3 * 3)),  # OIHW kernel; longest axis first
        ((8, 4, 3, 3), (8, 4 * 9), (8 * 4 * 3, 3)),
        ((5, 8, 16), (5, 8 * 16), (5 * 8, 16)),  # 1-D convolution [width, in, out]
        ((64, 4, 16), (64, 64), (64, 64)),  # query, key, value [d, heads, head_dim]
        ((4, 16, 64), (4, 16 * 64), (64, 64)),  # output projection [heads, head_dim, d]
        ((64, 3, 4, 16), (64, 192), (64, 192)),  # fused projection [d, 3, heads, head_dim]
        ((3, 3, 3, 4, 8), (3, 9 * 32), (27 * 4, 8)),  # 3-D convolution
    ],
    ids=str,
)
def test_folding(shape, first, last):
    assert fold_shape("w", shape, fold_output_first) == first
    assert fold_shape("w", shape, fold_output_last) == last


@pytest.mark.parametrize("shape", [(), (5,), (0,), (3, 4), (0, 4)])
def test_small_shapes_do_not_fold(shape):
    def never(name, shape):
        raise AssertionError("fold was asked about a shape of at most two axes")

    assert fold_shape("w", shape, never) == (shape or (1,))


@pytest.mark.parametrize("axis", [0, 4, -1])
def test_an_impossible_fold_is_refused(axis):
    with pytest.raises(ValueError, match=r"fold for parameter 'w' .* 1 … 3, got"):
        make_blocks({"w": (2, 2, 2, 2)}, Diagonal(), lambda name, shape: axis)


def test_torch_fused_projection_and_capped_embedding():
    shapes = {
        "attn.in_proj_weight": (24, 8),
        "attn.in_proj_bias": (24,),
        "attn.out_proj.weight": (8, 8),
        "embedding.weight": (30_000, 8),
    }
    blocks = {b.name: b for b in make_blocks(shapes, Kronecker(max_factor_dim=64))}
    factors = {n: b.structure.factor_shapes(b.block_shape) for n, b in blocks.items()}
    assert factors["attn.in_proj_weight"] == {"A": (24, 24), "B": (8, 8)}
    assert factors["attn.in_proj_bias"] == {"d": (24,)}
    assert factors["embedding.weight"] == {"A": (30_000,), "B": (8, 8)}


def test_structure_as_a_function_of_name_and_shape():
    asked = []

    def choose(name, shape):
        asked.append((name, shape))
        return Dense() if name.startswith("a.") else Scalar() if len(shape) < 2 else Kronecker()

    shapes = {"a.w": (2, 2), "a.b": (2,), "b.w": (2, 3), "b.b": (2,), "b.c": (3,)}
    blocks = make_blocks(shapes, choose)
    assert asked == [(name, shapes[name]) for name in sorted(shapes)]
    found = {block.parameters: type(block.structure) for block in blocks}
    assert found == {("a.b", "a.w"): Dense, ("b.b", "b.c"): Scalar, ("b.w",): Kronecker}


def test_two_structures_in_one_layer_get_names_of_their_own():
    def choose(name, shape):
        return Scalar() if len(shape) < 2 else Scalar(floor=0.5)

    blocks = make_blocks({"a.b": (2,), "a.c": (3,), "a.w": (2, 2)}, choose)
    assert [block.name for block in blocks] == ["a[a.b+a.c]", "a[a.w]"]


def test_a_parameter_may_be_named_like_a_layer():
    def choose(name, shape):
        return Diagonal() if name == "a" else Scalar()

    blocks = make_blocks({"a": (2,), "a.w": (2, 2)}, choose)
    assert len({block.name for block in blocks}) == 2
    assert [block.parameters for block in blocks] == [("a",), ("a.w",)]


def test_spans_stack_their_sources(rng):
    (block,) = make_blocks({"a.w": (2, 2)}, Span())
    sources = {name: {"a.w": rng.standard_normal((2, 2))} for name in ("gradient", "update")}
    gathered = block.gather(BACKEND, sources)
    np.testing.assert_array_equal(
        gathered, [sources["gradient"]["a.w"].reshape(-1), sources["update"]["a.w"].reshape(-1)]
    )


def test_no_parameters_is_an_error():
    with pytest.raises(ValueError, match="no parameters to precondition; pass at least one"):
        make_blocks({}, Diagonal())


def test_a_choice_that_is_no_structure_is_an_error():
    with pytest.raises(TypeError, match=r"parameter 'w' must be a structure object, got 'diag'"):
        make_blocks({"w": (2,)}, lambda name, shape: "diag")


def test_what_several_parameters_share_must_see_one_vector():
    class Everything(Kronecker):
        def owner(self, name):
            return "all"

    (alone,) = make_blocks({"w": (2, 2)}, Everything())
    assert alone.name == "all"
    with pytest.raises(
        ValueError, match='layout "folded" for v, w; set layout = "vector" on Every'
    ):
        make_blocks({"w": (2, 2), "v": (2, 2)}, Everything())


def test_the_report_is_a_table_with_memory():
    shapes = {"a.weight": (4, 2), "a.bias": (4,), "conv/kernel": (3, 3, 2, 8), "empty": (0,)}

    def choose(name, shape):
        return Kronecker(max_factor_dim=16) if len(shape) > 2 else Scalar()

    lines = report(make_blocks(shapes, choose)).splitlines()
    assert lines[0].split() == ["parameter", "shape", "structure", "factors", "KiB"]
    cells = [re.split(r" {2,}", line) for line in lines[1:]]
    assert cells[0] == ["a.bias", "(4,)", "scalar (per layer)", "1", "0.0"]
    assert cells[1] == ["a.weight", "(4, 2)", "as above (same layer)"]
    assert cells[2] == [
        "conv/kernel",
        "(3, 3, 2, 8)",
        "kronecker (diagonal A: above cap)",
        str(18 + 64),
        "0.3",
    ]
    assert lines[-1] == "total: 84 factors, 0.3 KiB (0.54 per parameter entry)"
    # Columns line up: every row starts its second cell where the header does.
    assert all(line[lines[0].index("shape")] == "(" for line in lines[1:-1])


def test_the_report_of_float64_factors_doubles_the_memory():
    blocks = make_blocks({"w": (256,)}, Diagonal())
    assert "256 factors, 1.0 KiB" in report(blocks)
    assert "256 factors, 2.0 KiB" in report(blocks, bytes_per_entry=8)


def test_the_report_of_an_empty_model_has_no_share():
    assert report(make_blocks({"w": (0,)}, Diagonal())).endswith("total: 0 factors, 0.0 KiB")
