"""A batch sharded over four devices gives the parameters one device gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import llqr.jax
from llqr.config import configure
from tests.jax import networks

assert len(jax.devices()) == 4, jax.devices()
case = networks.mlp(jnp.float64, examples=16)
config = configure(
    structure="kronecker", update_interval=10, ema_decay=0.5, curvature_batch_size={size},
    chunk_size={chunk}, solver_options={{"steps": 5, "learning_rate": 0.05}},
)
optimizer = llqr.jax.llqr(
    optax.adam(0.01), outputs_fn=case.outputs_fn, loss_fn=case.loss_fn, config=config
)

@jax.jit
def step(params, state, batch):
    gradient = jax.grad(lambda p: case.loss_fn(case.outputs_fn(p, batch), batch))(params)
    updates, state = optimizer.update(gradient, state, params, batch=batch)
    return optax.apply_updates(params, updates), state

def train(devices):
    mesh = Mesh(np.array(devices), ("batch",))
    replicated = NamedSharding(mesh, PartitionSpec())
    params, state = jax.device_put((case.params, optimizer.init(case.params)), replicated)
    for i in range(50):
        batch = (case.batch[0] * (1.0 + 0.01 * i), case.batch[1])
        batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))
        params, state = step(params, state, batch)
    assert int(state.preconditioner.fits) == 5
    assert step._cache_size() == 1, step._cache_size()
    step.clear_cache()
    return params

one, four = train(jax.devices()[:1]), train(jax.devices())
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(four), strict=True):
    assert len(b.sharding.device_set) == 4
    print(float(np.abs(np.asarray(a) - np.asarray(b)).max()))
"""


def differences(size: int | None, chunk: int | None) -> list[float]:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(size=size, chunk=chunk)],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_ENABLE_X64": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [float(line) for line in result.stdout.split()]


def test_sharded_batches_give_the_same_parameters_as_one_device():
    found = differences(None, None)
    assert len(found) == 4
    assert max(found) < 1e-6


def test_sharded_batches_with_a_part_of_the_batch_in_chunks():
    assert max(differences(10, 4)) < 1e-6
