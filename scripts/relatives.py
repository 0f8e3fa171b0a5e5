"""The relatives, LLQR and tuned first-order methods on two small tasks, with equal budgets.

    rosenbrock     0.01 (1 − x)² + (y − x²)² from (−0.5, 2), 200 steps; score: the last loss
    autoencoder    the digits autoencoder of ``workloads_extra``, batches of 128; score: loss on the training
                   images, in nats per image

Every method tries its grid once, and the best score counts. "lodo structure on the model" is LODO's G̃ᵀG̃
fitted on the LQR objective by Adam, on the same momentum as LODO, which learns it on the hypergradient.
Gradient-normalized Newton sees all images in every step and takes a tenth of the steps.

    python scripts/relatives.py               both tasks: results/relatives/tasks.json and tasks.md
    python scripts/relatives.py --task rosenbrock --only lodo
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llqr.config import configure
from llqr.curvature import Hessian, gauss_newton
from llqr.divergences import Bernoulli
from llqr.jax import llqr
from llqr.jax.relatives import gradient_normalized_newton, lanton, lodo, mfac
from llqr.relatives import GradientNormalizedNewton
from llqr.structures import Diagonal

FOLDER = Path("results/relatives")
Point = dict[str, Any]


class Rosenbrock:
    """Two parameters and no data."""

    steps, newton_share, curvature = 200, 1, Hessian()
    fitting: ClassVar = {"curvature": "newton", "damping": 0.1}

    def params(self) -> Any:
        """Return the start."""
        return {"u": jnp.asarray([-0.5, 2.0])}

    def batch(self, step: int) -> Any:
        """Return one example without content."""
        return jnp.zeros((1, 1))

    whole = jnp.zeros((1, 1))

    @staticmethod
    def outputs(params: Any, batch: Any) -> jax.Array:
        """Return u, [1, 2]."""
        return params["u"].reshape((1, 2))

    @staticmethod
    def loss(outputs: jax.Array, batch: Any) -> jax.Array:
        """Return the value of the function."""
        x, y = outputs[0]
        return 0.01 * (1.0 - x) ** 2 + (y - x**2) ** 2


class Autoencoder:
    """The digits autoencoder."""

    newton_share, curvature = 10, gauss_newton(Bernoulli())
    fitting: ClassVar = {"curvature": "fisher", "curvature_options": {"likelihood": "bernoulli"}}

    def __init__(self, steps: int) -> None:
        from workloads_extra.registry import make_workload

        self.steps = steps
        self._workload = make_workload("digits_autoencoder", "jax")
        self._images = np.asarray(self._workload._make_splits()["train"].inputs, np.float32)
        self.whole = jnp.asarray(self._images)

    def params(self) -> Any:
        """Return the initial parameters of seed 0."""
        return self._workload.init_model_fn(jax.random.PRNGKey(0))[0]

    def batch(self, step: int) -> Any:
        """Return 128 images, drawn without replacement within a pass."""
        per_pass = len(self._images) // 128
        order = np.random.default_rng(step // per_pass).permutation(len(self._images))
        start = 128 * (step % per_pass)
        return jnp.asarray(self._images[order[start : start + 128]])

    def outputs(self, params: Any, batch: Any) -> jax.Array:
        """Return logits, [batch, 64]."""
        return self._workload._apply(params, batch)

    @staticmethod
    def loss(outputs: jax.Array, batch: Any) -> jax.Array:
        """Return the cross-entropy in nats per image."""
        return optax.sigmoid_binary_cross_entropy(outputs, batch).sum(-1).mean()


Task = Rosenbrock | Autoencoder


def fitted(task: Task, point: Point) -> optax.GradientTransformation:
    """Return LLQR with LODO's structure on momentum, fitted by ten Adam steps every ten steps."""
    config = configure(
        **task.fitting,
        structure="lodo",
        inner_solver="adam",
        solver_options={"steps": 10, "learning_rate": point["meta"], "clip_norm": None},
        update_interval=10,
        ema_decay=0.0,
        apply_to="update",
    )
    base = optax.chain(optax.ema(0.9, debias=False), optax.scale(-point["rate"]))
    return llqr(base, outputs_fn=task.outputs, loss_fn=task.loss, config=config)


def newton(task: Task, _: Point) -> optax.GradientTransformation:
    """Return gradient-normalized Newton with the task's curvature."""
    return gradient_normalized_newton(
        outputs_fn=task.outputs,
        loss_fn=task.loss,
        curvature=task.curvature,
        method=GradientNormalizedNewton(solver_steps=30, tolerance=1e-3),
    )


def points(**values: list) -> list[Point]:
    """Return every combination."""
    result: list[Point] = [{}]
    for name, options in values.items():
        result = [{**point, name: option} for point in result for option in options]
    return result


Make = Callable[[Task, Point], optax.GradientTransformation]


def methods(task: Task) -> dict[str, tuple[Make, list[Point]]]:
    """Return what is compared: equally many points each, but for the one that has nothing to tune."""
    small = isinstance(task, Autoencoder)
    rates = [3e-3, 1e-2, 3e-2] if small else [0.1, 0.3, 1.0]
    meta = {"rate": rates, "meta": [1e-3] if small else [1e-2, 1e-3]}
    adam = [1e-3, 3e-3, 1e-2] if small else [0.1, 0.3, 1.0]
    window, damping = (32, [0.1]) if small else (4, [0.01, 0.1])
    return {
        "adam": (
            lambda t, p: optax.adam(p["rate"], b2=p["b2"]),
            points(rate=adam, b2=[0.99] if small else [0.99, 0.999]),
        ),
        "momentum": (
            lambda t, p: optax.chain(optax.ema(p["beta"], debias=False), optax.scale(-p["rate"])),
            points(
                rate=[10 * r for r in rates] if small else rates,
                beta=[0.9] if small else [0.9, 0.5],
            ),
        ),
        "lodo": (lambda t, p: lodo(p["rate"], meta_learning_rate=p["meta"]), points(**meta)),
        "lodo, diagonal": (
            lambda t, p: lodo(p["rate"], meta_learning_rate=p["meta"], structure=Diagonal()),
            points(**meta),
        ),
        "lodo structure on the model": (fitted, points(**meta)),
        "m-fac": (
            lambda t, p: mfac(p["rate"], window=window, damping=p["damping"], momentum=0.0),
            points(rate=[1e-3, 1e-2, 1e-1] if small else [0.1, 0.3, 1.0], damping=damping),
        ),
        "lanton": (
            lambda t, p: lanton(p["rate"], momentum=p["beta"]),
            points(
                rate=[3e-3, 1e-2, 3e-2] if small else [0.03, 0.1, 0.3],
                beta=[0.9] if small else [0.9, 0.5],
            ),
        ),
        "gradient-normalized newton": (newton, [{}]),
    }


def run(task: Task, optimizer: optax.GradientTransformation, steps: int, whole: bool) -> tuple:
    """Return the last loss on all data, the loss every tenth of the run, and seconds per step."""
    optimizer = optax.with_extra_args_support(optimizer)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        gradient = jax.grad(lambda p: task.loss(task.outputs(p, batch), batch))(params)
        updates, state = optimizer.update(gradient, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    evaluate = jax.jit(lambda p: task.loss(task.outputs(p, task.whole), task.whole))
    params = task.params()
    state, curve, started = optimizer.init(params), [], time.perf_counter()
    for number in range(steps):
        params, state = step(params, state, task.whole if whole else task.batch(number))
        if number == 0:
            jax.block_until_ready(params)
            started = time.perf_counter()  # compiled by now
        if (number + 1) % (steps // 10) == 0:
            curve.append(float(evaluate(params)))
    return curve[-1], curve, (time.perf_counter() - started) / (steps - 1)


def compare(name: str, task: Task, only: list[str] | None, results: dict[str, Any]) -> None:
    """Run the grids of a task and keep the best point of each."""
    for method, (make, grid) in methods(task).items():
        if only and method not in only:
            continue
        whole = make is newton
        steps = task.steps // (task.newton_share if whole else 1)
        tried = []
        for point in grid:
            score, curve, seconds = run(task, make(task, point), steps, whole)
            tried.append({"point": point, "score": score, "curve": curve, "seconds": seconds})
            print(f"{name}: {method} {point} {score:.6g}", flush=True)
        best = min(tried, key=lambda own: own["score"] if np.isfinite(own["score"]) else np.inf)
        # JSON has no number for what diverged.
        scores = [
            {"point": own["point"], "score": own["score"] if np.isfinite(own["score"]) else None}
            for own in tried
        ]
        results.setdefault(name, {})[method] = {**best, "steps": steps, "tried": scores}
        (FOLDER / "tasks.json").write_text(json.dumps(results, indent=1) + "\n")
        (FOLDER / "tasks.md").write_text(report(results))


def report(results: dict[str, Any]) -> str:
    """Return one table per task."""
    lines = []
    for name, own in results.items():
        lines += [
            f"## {name}",
            "",
            "| method | score | best point | points | steps | ms per step |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        for method, best in sorted(own.items(), key=lambda item: item[1]["score"]):
            point = ", ".join(f"{k} {v:g}" for k, v in best["point"].items()) or "no setting"
            lines.append(
                f"| {method} | {best['score']:.4g} | {point} | {len(best['tried'])} | {best['steps']} | "
                f"{1e3 * best['seconds']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run, save, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=("rosenbrock", "autoencoder"))
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--steps", type=int, default=150, help="of the autoencoder")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "tasks.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in [arguments.task] if arguments.task else ["rosenbrock", "autoencoder"]:
        task = Rosenbrock() if name == "rosenbrock" else Autoencoder(arguments.steps)
        compare(name, task, arguments.only, results)


if __name__ == "__main__":
    main()
