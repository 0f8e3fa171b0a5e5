"""A process that runs one framework's share of the job, one run after the other.

Reads pickled run specifications from standard input and answers with JSON lines on standard output. When
the process that started it is gone, the next answer fails and it ends.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
import traceback
from typing import Any

from scripts.demo_job import data, storage
from scripts.demo_job.loop import Run, train
from scripts.demo_job.storage import RunSpec
from scripts.demo_job.tasks import batches

MESSAGE_INTERVAL = 0.1
"""Seconds between progress messages of a run."""

THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # XLA sizes its thread pool by the first and splits matrix products by the second.
    "NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_X64": "0",
}
"""Environment of a worker: one thread each, so that two workers on two cores do not disturb each other."""


def make_trainer(spec: RunSpec) -> Any:
    """Return the trainer of a run; imports its framework."""
    if spec.framework == "torch":
        import torch

        from scripts.demo_job.training_torch import TorchTrainer

        torch.set_num_threads(1)
        return TorchTrainer(spec.task, spec.method, spec.seed)
    from scripts.demo_job.training_jax import JaxTrainer

    return JaxTrainer(spec.task, spec.method, spec.seed)


class Reporter:
    """Sends progress of one run, at most every :data:`MESSAGE_INTERVAL` seconds."""

    def __init__(self, send: Any, index: int) -> None:
        self.send, self.index, self.last = send, index, 0.0

    def __call__(self, run: Run) -> None:
        """Report the newest evaluation."""
        now = time.monotonic()
        if now - self.last >= MESSAGE_INTERVAL:
            self.last = now
            step = int(run.curve[-1]["step"])
            self.send(kind="progress", index=self.index, step=step, best=run.best)


def execute(spec: RunSpec, on_evaluation: Any) -> Run:
    """Do one run and store it."""
    examples = len(data.load(spec.task).inputs)
    order = batches(spec.task, examples, spec.seed)
    run = train(spec.task, make_trainer(spec), order, on_evaluation)
    storage.save(spec, run)
    return run


def main() -> int:
    """Run what standard input asks for; the exit status is the number of runs that failed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Whatever libraries print is no answer.

    def send(**message: Any) -> None:
        try:
            answers.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            os._exit(1)  # Nobody is listening any more.

    failures = 0
    specs: list[tuple[int, RunSpec]] = pickle.load(sys.stdin.buffer)
    for index, spec in specs:
        send(kind="start", index=index)
        started = time.monotonic()
        try:
            execute(spec, Reporter(send, index))
        except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError):
            traceback.print_exc()
            failures += 1
            send(kind="failed", index=index, error=traceback.format_exc())
        else:
            send(kind="done", index=index, seconds=time.monotonic() - started)
    return min(failures, 100)


if __name__ == "__main__":
    sys.exit(main())
