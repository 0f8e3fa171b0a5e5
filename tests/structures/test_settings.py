"""What structures refuse, and how the refusal reads."""

import pytest

from llqr.structures import EKFAC, LODO, Dense, Diagonal, Kronecker, LowRank, Scalar, Span

WRONG = [
    (lambda: Scalar(per="model"), r"per must be .*'model'"),
    (lambda: Scalar(floor="low"), r"floor must be None .*'low'"),
    (lambda: Diagonal(floor=float("nan")), r"floor must be None .*nan"),
    (lambda: Dense(max_factor_dim=0), r"max_factor_dim must be an integer of at least 1, got 0"),
    (lambda: Kronecker(max_factor_dim=2.5), r"max_factor_dim must be an integer .*got 2.5"),
    (lambda: EKFAC(max_factor_dim=True), r"max_factor_dim must be an integer .*got True"),
    (lambda: LowRank(rank=-1), r"rank must be an integer of at least 1, got -1"),
    (lambda: LODO(depth=0), r"depth must be an integer of at least 1, got 0"),
    (lambda: LODO(symmetric=1), r"symmetric must be True or False, got 1"),
    (lambda: LODO(per="model"), r"per must be .*'model'"),
    (lambda: Span(directions=()), r"directions must .*got \(\)"),
    (lambda: Span(directions=("input", "input")), r"none twice"),
    (lambda: Span(directions="gradient"), r"directions must be a tuple .*'gradient'"),
]


@pytest.mark.parametrize("build, message", WRONG, ids=[message[:25] for _, message in WRONG])
def test_bad_settings_name_argument_rule_and_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_directions_may_be_any_sequence():
    listed = Span(directions=["gradient", "update"])
    assert listed == Span() and hash(listed) == hash(Span())
