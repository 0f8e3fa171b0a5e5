"""What becomes of steps to target when the batch size or the scale of the initial weights changes.

Nothing else is touched: hyperparameters, where a submission has any, stay what they are for its own batch
size and the workload's own initialisation. Tensors of two axes or more are scaled.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from experiments.errors import ExperimentError
from experiments.plan import Limits, TrialSpec
from experiments.plots import png, styles, subplots
from experiments.submissions import Submission
from experiments.trial import flags
from workloads_extra import registry, targets
from workloads_extra.runner.options import parse
from workloads_extra.runner.single import TrialRunner, make_runtime
from workloads_extra.runner.submission import load_submission

RUNTIME_FACTOR = 100.0
"""Large, so that steps end a run and not the clock."""
AXES = {"batch_size": "batch size", "weight_scale": "scale of the initial weights"}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run.

    Attributes:
        submission: its label.
        workload: key of the registry.
        framework: ``jax`` or ``pytorch``.
        seed: of data and model.
        batch_size: None for the submission's own.
        weight_scale: factor on the initial weights.
    """

    submission: str
    workload: str
    framework: str
    seed: int
    batch_size: int | None = None
    weight_scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.batch_size is not None and self.batch_size < 1:
            raise ExperimentError(f"batch sizes must be at least 1, got {self.batch_size}")
        if self.weight_scale <= 0.0:
            raise ExperimentError(f"weight scales must be positive, got {self.weight_scale}")


def run(setting: Setting, submission: Submission, point: dict[str, Any] | None) -> dict[str, Any]:
    """Train until the validation target or the step hint.

    Args:
        setting: what to run.
        submission: of that label.
        point: hyperparameters, None under the self-tuning ruleset.

    Returns:
        The setting, ``steps_to_target`` (None if missed), ``best_validation`` and ``cpu_seconds``.
    """
    spec = TrialSpec(
        submission=submission.label,
        framework=setting.framework,
        ruleset=submission.ruleset,
        path=submission.path,
        space=submission.space,
        workload=setting.workload,
        study=0,
        trial=1,
        seed=setting.seed,
        hyperparameters=point,
        runtime_factor=RUNTIME_FACTOR,
        clock="process",
        **Limits().of(setting.workload),
    )
    functions, size = load_submission(spec.path), setting.batch_size
    if size is not None:
        functions = replace(functions, get_batch_size=lambda name: size)
    workload = registry.make_workload(spec.workload, spec.framework)
    workload.init_model_fn = scaled(workload.init_model_fn, setting.weight_scale)
    with tempfile.TemporaryDirectory() as folder:
        directory = spec.directory(Path(folder))
        runtime = make_runtime(spec.framework)
        runner = TrialRunner(
            workload, functions, runtime, parse(flags(spec, directory)), stream=None
        )
        outcome = runner.run(
            directory, point, spec.space or "", spec.seed, number=spec.trial, label=""
        )
    return {
        **asdict(setting),
        "steps_to_target": outcome.result.steps_to_target,
        "best_validation": outcome.result.best_validation,
        "cpu_seconds": outcome.result.submission_time,
    }


def scaled(make: Any, scale: float) -> Any:
    """Return ``init_model_fn`` with larger or smaller weights."""

    def init_model_fn(*arguments: Any, **named: Any) -> tuple[Any, Any]:
        params, state = make(*arguments, **named)
        if hasattr(params, "parameters"):
            for parameter in params.parameters():
                if parameter.ndim >= 2:
                    parameter.data.mul_(scale)
            return params, state
        import jax

        scaled = jax.tree.map(lambda leaf: leaf * scale if leaf.ndim >= 2 else leaf, params)
        return scaled, state

    return init_model_fn


def picture(records: Sequence[dict[str, Any]], axis: str) -> bytes:
    """Draw steps to target against one of :data:`AXES`: every run a mark, the median run a line.

    Args:
        records: of :func:`run`, of one workload and framework; misses stand at the upper edge as crosses.
        axis: a key of :data:`AXES`.

    Returns:
        A PNG.
    """
    figure, panel = subplots()
    names = list(dict.fromkeys(record["submission"] for record in records))
    missed = 1.5 * targets.of(records[0]["workload"]).step_hint
    for name in names:
        style = styles(names)[name]
        own = [record for record in records if record["submission"] == name]
        values = sorted({record[axis] for record in own})
        middle = []
        for value in values:
            steps = sorted(r["steps_to_target"] or missed for r in own if r[axis] == value)
            middle.append(steps[len(steps) // 2])
            for step in steps:
                mark = "x" if step == missed else "o"
                panel.plot([value], [step], mark, color=style["color"], markersize=5, alpha=0.7)
        panel.plot(values, middle, label=name, **style)
    panel.set_xscale("log", base=2 if axis == "batch_size" else 10)
    panel.set_yscale("log")
    panel.set_xlabel(AXES[axis])
    panel.set_ylabel("steps to target (crosses: missed)")
    panel.set_title(f"{records[0]['workload']}: {AXES[axis]}", fontsize=10)
    return png(figure, panel)


def table(records: Sequence[dict[str, Any]], axis: str) -> str:
    """Return the same as a Markdown table: steps of every seed, – for a miss."""
    names = list(dict.fromkeys(record["submission"] for record in records))
    values = sorted({record[axis] for record in records})
    head = [AXES[axis], *(f"{value:g}" for value in values)]
    lines = [head, ["---"] * len(head)]
    for name in names:
        cells = []
        for value in values:
            own = [r for r in records if r["submission"] == name and r[axis] == value]
            cells.append(", ".join(str(r["steps_to_target"] or "–") for r in own))
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
