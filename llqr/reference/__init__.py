"""Exact layerwise LQR and dense solves: the oracles of everything else in the library.

This package is numpy in float64 and loads no framework. The blocks of a real network come from
`llqr.torch.reference` and `llqr.jax.reference`, which differentiate a list of `Layer`s.
"""

from llqr.reference.assembly import DenseModel
from llqr.reference.autodiff import AbstractAutodiff
from llqr.reference.dense import dense_step, gram_solve, quadratic_value
from llqr.reference.lqr import (
    IndefiniteStageError,
    LQRProblem,
    RiccatiSolution,
    StageBlocks,
    riccati,
    riccati_step,
    rollout_cost,
    rollout_states,
)
from llqr.reference.modes import (
    AbstractMode,
    Fisher,
    GaussNewton,
    IntermediateLayers,
    Newton,
    Renyi,
    StateTerm,
)
from llqr.reference.network import Layer

__all__ = [
    "AbstractAutodiff",
    "AbstractMode",
    "DenseModel",
    "Fisher",
    "GaussNewton",
    "IndefiniteStageError",
    "IntermediateLayers",
    "LQRProblem",
    "Layer",
    "Newton",
    "Renyi",
    "RiccatiSolution",
    "StageBlocks",
    "StateTerm",
    "dense_step",
    "gram_solve",
    "quadratic_value",
    "riccati",
    "riccati_step",
    "rollout_cost",
    "rollout_states",
]
