"""Trains a tiny workload through a submission and saves its parameters; started by test_devices.

    python devices_worker.py jax OUT            all devices of JAX
    torchrun ... devices_worker.py pytorch OUT  data-parallel over the processes, or one process

The global batch and every random number are the same however many devices there are.
"""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

STEPS, EXAMPLES = 50, 512


def submission(framework):
    path = ROOT / "submissions/self_tuning" / f"llqr_{framework}" / "submission.py"
    spec = importlib.util.spec_from_file_location("submission_in_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(framework, workload, params, model_state, batch_of_step, rng):
    own = submission(framework)
    state = own.init_optimizer_state(workload, params, model_state, None, None)
    for step in range(STEPS):
        state, params, model_state = own.update_params(
            workload=workload,
            current_param_container=params,
            current_params_types={},
            model_state=model_state,
            hyperparameters=None,
            batch=batch_of_step(step),
            loss_type=workload.loss_type,
            optimizer_state=state,
            eval_results=[],
            global_step=step,
            rng=rng,
        )
    return state, params, model_state


def run_jax(out):
    import jax

    jax.config.update("jax_enable_x64", True)

    from llqr.jax.state import find_states
    from tests.submissions import tiny

    workload = tiny.JaxTiny("softmax", dtype=np.float64)
    # Dropout draws from the global batch, so it is left on.
    (state, trainer), params, model_state = train(
        "jax",
        workload,
        *workload.init_model_fn(),
        lambda step: tiny.make_batch("softmax", EXAMPLES, seed=step, dtype=np.float64),
        jax.random.PRNGKey(0),
    )
    fits = find_states(state)[0].preconditioner.fits
    leaves = {"/".join(k.key for k in path): leaf for path, leaf in leaves_of(params)}
    leaves["trained mean"] = model_state["mean"]
    leaves["present mean"] = trainer.evaluated(state, params, model_state)["mean"]
    np.savez(out, devices=jax.device_count(), fits=fits, **leaves)


def leaves_of(tree):
    import jax

    return jax.tree_util.tree_flatten_with_path(tree)[0]


def run_pytorch(out):
    import torch
    import torch.distributed as dist

    from tests.submissions import tiny

    torch.set_num_threads(1)
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if size > 1:
        dist.init_process_group("gloo")
    # Batch statistics are per process, and dropout draws per process: both off.
    workload = tiny.TorchTiny("softmax", statistics=False, dtype=np.float64)
    workload.model_fn = without_dropout(workload.model_fn)
    model, _ = workload.init_model_fn()
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if size > 1 else model
    local = EXAMPLES // size

    def batch_of_step(step):
        batch = tiny.make_batch("softmax", EXAMPLES, seed=step, dtype=np.float64)
        own = {key: value[rank * local : (rank + 1) * local] for key, value in batch.items()}
        return tiny.to_torch(own)

    state, _, _ = train("pytorch", workload, wrapped, None, batch_of_step, None)
    fits = state["llqr"].optimizer.counters()["fits"]
    named = {name: value.detach().numpy() for name, value in model.named_parameters()}
    factors = {
        f"factor {block}": own["s"].numpy()
        for block, own in state["llqr"].optimizer.factors().items()
    }
    mean = present_mean(batch_of_step(0))
    np.savez(f"{out}.{rank}.npz", devices=size, fits=fits, **named, **factors, **mean)
    if size > 1:
        # Everything is written. gloo's threads, torn down while the other process still closes its end,
        # abort the interpreter now and then: no destructors.
        os._exit(0)


def present_mean(batch):
    """Running statistics that each process alone would find for its own share."""
    import torch

    from llqr.algoperf.torch_running_statistics import bring_to_present
    from tests.submissions import tiny

    layer = torch.nn.BatchNorm1d(tiny.FEATURES).double()
    bring_to_present(layer, lambda module, half: module(half["inputs"]), batch)
    return {"present mean": layer.running_mean.numpy()}


def without_dropout(model_fn):
    def changed(*args, **kwargs):
        return model_fn(*args, **(kwargs | {"dropout_rate": 0.0}))

    return changed


if __name__ == "__main__":
    {"jax": run_jax, "pytorch": run_pytorch}[sys.argv[1]](sys.argv[2])
