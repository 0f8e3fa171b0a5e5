"""A process that has a framework loaded and forks one process per trial.

Loading a framework takes seconds, forking milliseconds, and a forked process is as good as a new one while
the server has touched no device and started no thread. Started as ``python -m experiments.engines.server
FRAMEWORK PARENT``, it reads one JSON object per line,

    {"id": 3, "root": "…", "spec": {…}, "environment": {…}, "timeout": null}

and writes ``{"id": 3, "status": 0}`` when that trial has ended (a negative status is a signal). A trial that
ends in order has ended once its record is there: the system takes back the memory of its process while the
next one runs, except where trials have devices of their own, whose memory the next one needs.
When its input ends, because the program that started it is done or dead, it kills what still runs.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import selectors
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from experiments import trial
from experiments.plan import TrialSpec
from workloads_extra.runner.metadata import versions

PRELOADED = {
    "jax": (
        "jax",
        "optax",
        "llqr.algoperf.recipes",
        "llqr.algoperf.jax_training",
        "workloads_extra.runner.arrays_jax",
        "workloads_extra.jax_workload",
    ),
    # torch imports its compiler with the first optimizer.
    "pytorch": (
        "torch._dynamo",
        "llqr.algoperf.recipes",
        "llqr.algoperf.torch_training",
        "workloads_extra.runner.arrays_pytorch",
        "workloads_extra.pytorch_workload",
    ),
}
PRELOADED_IF_THERE = ("sklearn.datasets",)
"""What some workloads import, and takes long."""
LOG = "log.txt"
_PR_SET_PDEATHSIG = 1


class _Waiting(NamedTuple):
    """A process that waits for its order.

    Attributes:
        pid: of the process.
        orders: where to write the order.
        end: gives the trial's status in one byte, or nothing if the process ended without saying it.
    """

    pid: int
    orders: int
    end: int


class Server:
    """Forks trials and waits for them.

    Args:
        answers: where to write.
    """

    def __init__(self, answers: Any):
        self._answers = answers
        self._running: dict[int, tuple[int, int]] = {}
        self._leaving: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._pending = b""
        self._next = self._fork()

    def serve(self) -> None:
        """Work until the input ends."""
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fd == sys.stdin.fileno():
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        return
                    self._read(data)
                else:
                    self._reap(key.fd)

    def _read(self, data: bytes) -> None:
        """Start what whole lines ask for."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._start(json.loads(line))

    def _start(self, order: dict[str, Any]) -> None:
        """Give an order to the process that waits for one, and fork the next."""
        waiting, self._next = self._next, None
        with os.fdopen(waiting.orders, "wb") as orders:
            orders.write(json.dumps(order).encode())
        self._running[waiting.end] = (waiting.pid, order["id"])
        self._selector.register(waiting.end, selectors.EVENT_READ)
        self._next = self._fork()

    def _fork(self) -> "_Waiting":
        """Fork a process that waits for an order."""
        server = os.getpid()
        (its_orders, orders), (end, its_end) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(orders)
            os.close(end)
            _die_with(server)
            with os.fdopen(its_orders, "rb") as stream:
                order = stream.read()
            os._exit(_obey(json.loads(order), its_end) if order else 0)
        os.close(its_orders)
        os.close(its_end)
        return _Waiting(pid, orders, end)

    def _reap(self, pipe: int) -> None:
        """Report a trial that has ended."""
        self._selector.unregister(pipe)
        said = os.read(pipe, 1)
        os.close(pipe)
        pid, number = self._running.pop(pipe)
        if said:
            status = said[0]
            self._leaving.append(pid)
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"id": number, "status": status}), file=self._answers, flush=True)
        self._leaving = [pid for pid in self._leaving if os.waitpid(pid, os.WNOHANG) == (0, 0)]

    def kill(self) -> None:
        """End what still runs or waits."""
        os.close(self._next.orders)
        os.waitpid(self._next.pid, 0)
        for pid, _ in self._running.values():
            os.kill(pid, signal.SIGKILL)
        for pid in [*self._leaving, *(pid for pid, _ in self._running.values())]:
            os.waitpid(pid, 0)


def _die_with(parent: int) -> None:
    """Ask the system, where it can do so, to kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _obey(order: dict[str, Any], answer: int) -> int:
    """Run a trial and return its status; say it before the process has ended unless it has devices."""
    # Programs that a trial starts do not keep the pipe open; torchrun takes this process's place and has to.
    os.set_inheritable(answer, order["spec"]["processes"] > 1)
    status = _trial(order)
    if not order["environment"]:
        os.write(answer, bytes([status]))
    return status


def _trial(order: dict[str, Any]) -> int:
    """Run a trial in a forked process, its output in its folder; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.update(order["environment"])
    if order["timeout"] is not None:
        # Nobody handles the signal, so it ends the process.
        signal.setitimer(signal.ITIMER_REAL, order["timeout"])
    spec = TrialSpec(**order["spec"])
    folder = trial.prepare(spec, Path(order["root"]))
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if spec.processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={spec.processes}", "-m", "experiments.trial", str(folder)]
        os.execv(sys.executable, command)
    record = trial.run(spec, Path(order["root"]))
    sys.stdout.flush()
    sys.stderr.flush()
    return int(record is None or record.failed)


def main(arguments: list[str]) -> int:
    """Load a framework and serve.

    Args:
        arguments: the framework, and the process that this one belongs to.

    Returns:
        Exit status.
    """
    # While a framework is loaded nobody looks whether the input has ended.
    _die_with(int(arguments[1]))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Ctrl-C is for the program that started this one, which then closes the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED[arguments[0]]:
        importlib.import_module(name)
    for name in PRELOADED_IF_THERE:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    versions()
    server = Server(answers)
    try:
        server.serve()
    finally:
        server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
