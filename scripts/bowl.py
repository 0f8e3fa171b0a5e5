"""The noisy quadratic bowl: which optimizer follows a minimum that walks at random.

    L_t(θ) = ½ (θ − c_t)ᵀ H (θ − c_t),   c_t = c_{t−1} + N(0, I)

H has 100 eigenvalues spaced evenly in their logarithm from 1e-3 to 1, in a random basis. The score is the
mean of L_t before each step over the last tenth of the run. A step by H⁻¹ lands on the minimum, which then
moves: it scores ½ tr H = 7.41, and no method that sees one gradient per step can do better.

Every method gets a grid; the best point of seed 0 is repeated with two more seeds (basis and walk).

    python scripts/bowl.py                    all methods, 100 000 steps, results/relatives/bowl.json
    python scripts/bowl.py --only lodo adam   some methods; the others keep their results
    python scripts/bowl.py --report           bowl.md and bowl.png from bowl.json

Source of the task: "Learning to Optimize Quasi-Newton Methods" (arXiv 2210.06171).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llqr.config import configure
from llqr.curvature import Hessian
from llqr.jax import llqr
from llqr.jax.relatives import gradient_normalized_newton, lanton, lodo, mfac
from llqr.structures import LODO, Diagonal

SIZE, SEEDS, POINTS = 100, (0, 1, 2), 200
FOLDER = Path("results/relatives")
SHAPE = (10, 10)
"""θ as a matrix, so that Kronecker structures have two axes to work on."""


def hessian(seed: int) -> np.ndarray:
    """Return H [100, 100]."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))
    return (basis * np.logspace(-3, 0, SIZE)) @ basis.T


def outputs_fn(params: Any, batch: Any) -> jax.Array:
    """Return θ − c, [1, 100]."""
    return params["theta"].reshape((1, -1)) - batch["minimum"]


def loss_fn(outputs: jax.Array, batch: Any) -> jax.Array:
    """Return L."""
    return 0.5 * (outputs[0] @ batch["hessian"][0] @ outputs[0])


def run(optimizer: optax.GradientTransformation, seed: int, steps: int) -> np.ndarray:
    """Return L_t before every step, averaged over ``POINTS`` equal parts of the run."""
    optimizer = optax.with_extra_args_support(optimizer)
    matrix = jnp.asarray(hessian(seed), jnp.float32)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, state, minimum = carry
        minimum = minimum + jax.random.normal(key, minimum.shape)
        batch = {"minimum": minimum, "hessian": matrix[None]}
        loss, gradient = jax.value_and_grad(lambda p: loss_fn(outputs_fn(p, batch), batch))(params)
        updates, state = optimizer.update(gradient, state, params, batch=batch, hessian=matrix)
        return (optax.apply_updates(params, updates), state, minimum), loss

    def part(carry: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
        carry, losses = jax.lax.scan(step, carry, keys)
        return carry, losses.mean()

    params = {"theta": jnp.zeros(SHAPE)}
    keys = jax.random.split(jax.random.PRNGKey(seed), steps)
    start = (params, optimizer.init(params), jnp.zeros((1, SIZE)))
    _, means = jax.jit(lambda c, k: jax.lax.scan(part, c, k))(
        start, keys.reshape((POINTS, steps // POINTS, -1))
    )
    return np.asarray(means, np.float64)


def exact(_: dict) -> optax.GradientTransformation:
    """Return u = −H⁻¹ g."""

    def update(updates: Any, state: Any, params: Any = None, *, hessian: Any, **_: Any) -> Any:
        step = jnp.linalg.solve(hessian, updates["theta"].reshape(-1))
        return {"theta": -step.reshape(SHAPE)}, state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def momentum(point: dict) -> optax.GradientTransformation:
    """Return the moving average of the gradient times a rate."""
    return optax.chain(optax.ema(point["beta"], debias=False), optax.scale(-point["rate"]))


def fitted(point: dict) -> optax.GradientTransformation:
    """Return LLQR: a structure fitted on the quadratic model, acting on the same momentum as LODO."""
    config = configure(
        curvature="newton",
        structure=point["structure"],
        structure_options=point.get("options", {}),
        inner_solver=point["solver"],
        solver_options={"steps": point["steps"], **point.get("solver_options", {})},
        update_interval=point["interval"],
        ema_decay=point.get("ema", 0.0),
        apply_to="update",
    )
    base = momentum({"beta": point["beta"], "rate": 1.0})
    return llqr(base, outputs_fn=outputs_fn, loss_fn=loss_fn, config=config)


def grid(**values: list) -> list[dict]:
    """Return every combination."""
    points: list[dict] = [{}]
    for name, options in values.items():
        points = [{**point, name: option} for point in points for option in options]
    return points


def learned(point: dict) -> optax.GradientTransformation:
    """Return LODO, or its diagonal ablation."""
    point = dict(point)
    structure = Diagonal() if point.pop("diagonal", False) else LODO(**point.pop("options", {}))
    return lodo(point.pop("rate"), structure=structure, **point)


def newton(_: dict) -> optax.GradientTransformation:
    """Return Newton steps damped by the gradient's norm."""
    return gradient_normalized_newton(outputs_fn=outputs_fn, loss_fn=loss_fn, curvature=Hessian())


FIT = {"beta": [0.0], "solver": ["conjugate_gradient"], "steps": [1], "interval": [1]}
ON_MODEL = {"beta": [0.0], "structure": ["lodo"], "steps": [10], "interval": [10]}
ADAM_SOLVER = [{"learning_rate": 3e-4, "clip_norm": None}]

Method = tuple[Callable[[dict], optax.GradientTransformation], list[dict]]


def ablation(**settings: Any) -> Method:
    """Return LODO with one of the paper's ablations, at the learning rates that are best without it."""
    return learned, [{"rate": 1.0, "meta_learning_rate": 3e-4, "momentum": 0.0, **settings}]


METHODS: dict[str, Method] = {
    "exact": (exact, [{}]),
    "sgd": (momentum, grid(beta=[0.0], rate=[0.3, 0.5, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8])),
    "momentum": (
        momentum,
        grid(beta=[0.3, 0.5, 0.7, 0.9], rate=[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0]),
    ),
    "adam": (
        lambda p: optax.adam(p["rate"], b1=p["b1"], b2=p["b2"]),
        grid(rate=[0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8], b1=[0.0, 0.3, 0.5, 0.7, 0.9], b2=[0.999]),
    ),
    "lodo": (learned, grid(rate=[1.0], meta_learning_rate=[1e-3, 3e-4], momentum=[0.0])),
    "lodo, momentum 0.9": ablation(momentum=0.9),
    "lodo, depth 4": ablation(options={"depth": 4}),
    "lodo, depth 8": ablation(options={"depth": 8}),
    "lodo, blocks of 2": ablation(options={"block_size": 2}),
    "lodo, blocks of 8": ablation(options={"block_size": 8}),
    "lodo, not symmetric": ablation(options={"symmetric": False}),
    "lodo, diagonal": ablation(diagonal=True),
    "lodo structure on the model, adam": (
        fitted,
        grid(solver=["adam"], solver_options=ADAM_SOLVER, **ON_MODEL),
    ),
    "lodo structure on the model, conjugate gradient": (
        fitted,
        grid(solver=["conjugate_gradient"], **ON_MODEL),
    ),
    "llqr scalar": (fitted, grid(structure=["scalar"], **FIT)),
    "llqr diagonal": (fitted, grid(structure=["diagonal"], ema=[0.0], **FIT)),
    "llqr kronecker": (fitted, grid(structure=["kronecker"], ema=[0.0], **FIT)),
    "llqr dense": (fitted, grid(structure=["dense"], ema=[0.0], **FIT)),
    "m-fac, window 128": (
        lambda p: mfac(p["rate"], window=128, damping=p["damping"]),
        grid(rate=[1.0], damping=[0.03, 0.1]),
    ),
    "lanton": (
        lambda p: lanton(p["rate"], momentum=p["beta"]),
        grid(rate=[3.0, 5.0], beta=[0.0, 0.5]),
    ),
    "gradient-normalized newton": (newton, [{}]),
}


def score(curve: np.ndarray) -> float:
    """Return the mean over the last tenth."""
    return float(curve[-POINTS // 10 :].mean())


def measure(name: str, steps: int, seeds: int) -> dict[str, Any]:
    """Tune a method on seed 0 and repeat the best point."""
    make, points = METHODS[name]
    tried, best = [], None
    started = time.perf_counter()
    for point in points:
        curve = run(make(point), SEEDS[0], steps)
        tried.append({"point": point, "score": score(curve)})
        print(f"{name} {point} {tried[-1]['score']:.2f}", flush=True)
        if best is None or score(curve) < score(best[1]) or not np.isfinite(score(best[1])):
            best = (point, curve)
    curves = [best[1]] + [run(make(best[0]), seed, steps) for seed in SEEDS[1:seeds]]
    seconds = (time.perf_counter() - started) / (len(points) + seeds - 1)
    return {
        "steps": steps,
        "tried": tried,
        "best": best[0],
        "scores": [score(curve) for curve in curves],
        "microseconds_per_step": 1e6 * seconds / steps,
        "curve": [round(float(value), 3) for value in curves[0]],
    }


def report(results: dict[str, Any]) -> None:
    """Write the table and the plot."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [
        "| method | mean loss, last tenth (each seed) | best point | points tried | µs per step |",
        "|---|---|---|---|---|",
    ]
    order = sorted(results, key=lambda name: np.mean(results[name]["scores"]))
    for name in order:
        own = results[name]
        spread = ", ".join(f"{value:.2f}" for value in own["scores"])
        point = ", ".join(f"{k} {v}" for k, v in own["best"].items()) or "no setting"
        lines.append(
            f"| {name} | {np.mean(own['scores']):.2f} ({spread}) | {point} | {len(own['tried'])} | "
            f"{own['microseconds_per_step']:.0f} |"
        )
    (FOLDER / "bowl.md").write_text("\n".join(lines) + "\n")
    shown = ("exact", "adam", "momentum", "lodo", "lodo, diagonal", "lodo, not symmetric")
    shown += ("lodo structure on the model, adam", "llqr dense", "llqr diagonal")
    figure, axes = plt.subplots(figsize=(10, 5))
    for name in [n for n in order if n in shown]:
        own = results[name]
        x = (np.arange(POINTS) + 0.5) * own["steps"] / POINTS
        axes.plot(x, own["curve"], label=f"{name}: {np.mean(own['scores']):.1f}", linewidth=1.2)
    axes.set(
        xscale="log", yscale="log", xlabel="step", ylabel="loss (mean over a 200th of the run)"
    )
    axes.axhline(0.5 * np.logspace(-3, 0, SIZE).sum(), color="black", linestyle=":", linewidth=1)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(FOLDER / "bowl.png", dpi=120)


def main() -> None:
    """Measure, save after every method, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="a multiple of 200")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "bowl.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in [] if arguments.report else arguments.only:
        results[name] = measure(name, arguments.steps, arguments.seeds)
        file.write_text(json.dumps(results, indent=1) + "\n")
    report(results)


if __name__ == "__main__":
    main()
