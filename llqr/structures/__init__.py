"""Preconditioner structures: linear maps with few learnable factors, one file per family."""

from llqr.structures.base import AbstractStructure, Factors
from llqr.structures.blocks import (
    Block,
    fold_output_first,
    fold_output_last,
    make_blocks,
    report,
)
from llqr.structures.dense import Dense
from llqr.structures.ekfac import EKFAC, SeparableEKFAC
from llqr.structures.elementwise import Diagonal, Scalar
from llqr.structures.kronecker import Kronecker
from llqr.structures.lodo import LODO
from llqr.structures.low_rank import LowRank
from llqr.structures.span import Span

__all__ = [
    "EKFAC",
    "LODO",
    "AbstractStructure",
    "Block",
    "Dense",
    "Diagonal",
    "Factors",
    "Kronecker",
    "LowRank",
    "Scalar",
    "SeparableEKFAC",
    "Span",
    "fold_output_first",
    "fold_output_last",
    "make_blocks",
    "report",
]
