"""What the two rulesets of AlgoPerf make of a recipe (:mod:`llqr.algoperf.recipes`).

They differ in what sets the length of a step:

* external tuning: warm-up and cosine from the workload's step hint T times a tuned peak; U keeps the norm of
  Adam's direction per parameter (:func:`llqr.presets.shaped`). For the structure ``"span"`` the rules of
  self-tuning hold, with tuned numbers in them: η_t is constant, and the decay is a factor on self-tuning's;
* self-tuning: in the first fifth of T, U solves for the length of Adam's direction and of the raw gradient in
  every group of parameters; then lengths measured in the first tenth fall linearly
  (:mod:`llqr.annealing`), and η_t = 1. What remains is fixed by rules without a workload's name in them. The
  decay of tensors of two axes or more has a memory of forty epochs (:mod:`llqr.algoperf.decay`). Softmax
  losses are smoothed by 0.1 while lengths are solved for, so that the Fisher does not vanish when the network
  fits its data, and until they have fallen to a half, which measures better on validation data than
  to stop there.
"""

from __future__ import annotations

from typing import Any

from llqr.algoperf.decay import AnnealedDecay, ConstantDecay
from llqr.algoperf.likelihoods import loss_name
from llqr.algoperf.recipes import Recipe, Schedule
from llqr.annealing import Annealing

SMOOTHING = 0.1
"""Label smoothing of self-tuning, until the annealed lengths have fallen to a half."""


def self_tuning(workload: Any, hyperparameters: Any = None) -> Recipe:
    """Return the recipe without hyperparameters.

    Args:
        workload: for its ``step_hint`` and loss type.
        hyperparameters: ignored.
    """
    steps = int(workload.step_hint)
    softmax = loss_name(workload.loss_type) == "SOFTMAX_CROSS_ENTROPY"
    annealing = Annealing(total_steps=steps)
    return Recipe(
        decay=AnnealedDecay(annealing=annealing),
        label_smoothing=SMOOTHING if softmax else 0.0,
        annealing=annealing,
    )


_FIELDS = (
    "learning_rate",
    "one_minus_beta1",
    "beta2",
    "weight_decay",
    "warmup_factor",
    "label_smoothing",
    "dropout_rate",
    "structure",
    "update_interval",
)


def external_tuning(workload: Any, hyperparameters: Any) -> Recipe:
    """Return the recipe of one point of the search space.

    Args:
        workload: for its ``step_hint``.
        hyperparameters: record with the fields of ``tuning_search_spaces/llqr.json``; the span adapts its
            interval and anneals, whatever ``update_interval`` and ``warmup_factor`` say.

    Raises:
        AttributeError: if a field is missing; the record's own, which may know the file it was read from.
        ValueError: if a field is out of range.
    """
    try:
        values = {name: getattr(hyperparameters, name) for name in _FIELDS}
    except AttributeError as error:
        error.add_note(
            f"hyperparameters must have the fields {', '.join(_FIELDS)}; add what is missing to "
            "tuning_search_space.json"
        )
        raise
    steps = int(workload.step_hint)
    common = {
        "beta1": 1.0 - values["one_minus_beta1"],
        "beta2": values["beta2"],
        "label_smoothing": values["label_smoothing"],
        "dropout_rate": values["dropout_rate"],
        "gradient_clip": getattr(hyperparameters, "grad_clip", None),
        "structure": values["structure"],
    }
    if values["structure"] == "span":
        annealing = Annealing(total_steps=steps)
        return Recipe(
            **common,
            schedule=Schedule(peak=values["learning_rate"]),
            decay=AnnealedDecay(annealing=annealing, strength=values["weight_decay"]),
            annealing=annealing,
        )
    return Recipe(
        **common,
        schedule=Schedule(
            peak=values["learning_rate"],
            warmup_steps=int(values["warmup_factor"] * steps),
            total_steps=steps,
        ),
        base_step=1.0,
        decay=ConstantDecay(rate=values["weight_decay"]),
        update_interval=values["update_interval"],
    )
