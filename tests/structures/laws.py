"""The laws every structure obeys, and the cases they are checked on."""

import numpy as np

from llqr.backend import NumpyBackend
from llqr.structures import (
    EKFAC,
    LODO,
    Dense,
    Diagonal,
    Kronecker,
    LowRank,
    Scalar,
    SeparableEKFAC,
    Span,
)
from llqr.structures.blocks import fold_output_first, make_blocks

NUMPY = NumpyBackend()

STRUCTURES = {
    "scalar": Scalar(),
    "scalar_per_parameter": Scalar(per="parameter"),
    "diagonal": Diagonal(),
    "dense": Dense(max_factor_dim=40),
    "kronecker": Kronecker(),
    "kronecker_capped": Kronecker(max_factor_dim=3),
    "ekfac": EKFAC(),
    "ekfac_capped": EKFAC(max_factor_dim=3),
    "separable_ekfac": SeparableEKFAC(),
    "separable_ekfac_capped": SeparableEKFAC(max_factor_dim=3),
    "low_rank": LowRank(rank=2),
    "low_rank_fixed": LowRank(rank=3, learn_projection=False, seed=5),
    "lodo": LODO(depth=3, block_size=2, max_size=1000),
    "lodo_left_fixed": LODO(depth=2, block_size=3, symmetric=False, max_size=1000),
    "span": Span(directions=("input", "update", "third")),
    "span_per_parameter": Span(per="parameter"),
}

SHAPES = [
    (),
    (1,),
    (4,),
    (0,),
    (0, 5),
    (3, 0),
    (1, 4),
    (4, 1),
    (2, 3),
    (4, 3),
    (2, 3, 2),
    (3, 2, 1, 2),
    (2, 1, 2, 1, 2),
]


def block_of(structure, shape, name="layer.weight"):
    """Return the block that one parameter of this shape becomes."""
    (block,) = make_blocks({name: shape}, structure, fold_output_first)
    return block


def random_input(rng, block):
    """Return an input of the shape the structure sees."""
    sources = (len(block.structure.sources),) if block.structure.stacks_sources else ()
    return rng.standard_normal(sources + block.block_shape)


def random_factors(rng, block, like=None):
    """Return factors away from the identity."""
    like = np.zeros(()) if like is None else like
    start = block.structure.init(NUMPY, block.block_shape, like)
    return {name: value + 0.5 * rng.standard_normal(value.shape) for name, value in start.items()}


def random_tangent(rng, factors):
    """Return a direction in factor space."""
    return {name: rng.standard_normal(value.shape) for name, value in factors.items()}


def dot(x, y):
    """Return the inner product of two dictionaries of arrays."""
    return sum(float((x[name] * y[name]).sum()) for name in x)


def learned(structure, name):
    """Is this factor learned; a fixed projection is stored as a factor but never moves."""
    return not (isinstance(structure, LowRank) and not structure.learn_projection and name == "W")


def check_identity(block, x):
    """U x = x at init; for spans, x is the first direction."""
    factors = block.structure.init(NUMPY, block.block_shape, x)
    expected = x[0] if block.structure.stacks_sources else x
    # The blocks of LODO start orthogonal to rounding, every other structure exactly as the identity.
    close = (
        {"rtol": 1e-13, "atol": 1e-14 * np.abs(x).max(initial=0.0)}
        if isinstance(block.structure, LODO)
        else {"rtol": 0.0, "atol": 0.0}
    )
    np.testing.assert_allclose(block.structure.apply(NUMPY, factors, x), expected, **close)


def check_linear(block, factors, x, y, scale):
    """U (x + c y) = U x + c U y."""
    apply = block.structure.apply
    np.testing.assert_allclose(
        apply(NUMPY, factors, x + scale * y),
        apply(NUMPY, factors, x) + scale * apply(NUMPY, factors, y),
        rtol=1e-12,
        atol=1e-11 * (1.0 + abs(scale)),
    )


def check_dense(block, factors, x):
    """U x equals the dense matrix times the row-major vec(x)."""
    matrix = block.structure.to_dense(NUMPY, factors, block.block_shape)
    assert matrix.shape == (int(np.prod(block.block_shape)), x.size)
    np.testing.assert_allclose(
        matrix @ x.reshape(-1),
        block.structure.apply(NUMPY, factors, x).reshape(-1),
        rtol=1e-12,
        atol=1e-12,
    )


def check_adjoint(block, factors, tangent, x, cotangent):
    """⟨R, pushforward(ḟ)⟩ = ⟨pullback(R), ḟ⟩."""
    structure = block.structure
    moved = structure.pushforward(NUMPY, factors, tangent, x)
    pulled = structure.pullback(NUMPY, factors, x, cotangent)
    assert {name: value.shape for name, value in pulled.items()} == {
        name: value.shape for name, value in factors.items()
    }
    left, right = float((cotangent * moved).sum()), dot(pulled, tangent)
    assert abs(left - right) <= 1e-12 * (1.0 + np.abs(cotangent).sum() * np.abs(moved).sum())


def dense_jacobian(block, factors, x, learned_only=True):
    """Return d vec(U x)/d vec(f) by exact polarisation: no step size, no truncation error.

    Along any line, U x is a polynomial in the factors of degree at most 5 (EKFAC: two factors twice, one
    once); the derivative of a polynomial of degree d at 0 is an exact combination of d + 1 values.
    """
    nodes = np.array([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]) / 4.0
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, np.eye(len(nodes))[1])
    columns = []
    for name, value in factors.items():
        for index in np.ndindex(value.shape):
            unit = np.zeros(value.shape)
            unit[index] = 1.0 if learned(block.structure, name) or not learned_only else 0.0
            values = [
                block.structure.apply(NUMPY, {**factors, name: value + node * unit}, x)
                for node in nodes
            ]
            columns.append(sum(w * v for w, v in zip(weights, values, strict=True)).reshape(-1))
    size = int(np.prod(block.block_shape))
    return np.stack(columns, axis=1) if columns else np.zeros((size, 0))


def check_jacobian(block, factors, x, cotangent):
    """Pullback and pushforward agree with the dense Jacobian, column by column."""
    structure, jacobian = block.structure, dense_jacobian(block, factors, x)
    pulled = structure.pullback(NUMPY, factors, x, cotangent)
    flat = np.concatenate([value.reshape(-1) for value in pulled.values()])
    np.testing.assert_allclose(flat, jacobian.T @ cotangent.reshape(-1), rtol=1e-9, atol=1e-9)
