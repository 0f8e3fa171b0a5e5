"""Trials on the machines of a Ray cluster: the same processes and files as on one machine.

Each place on the cluster is an actor that has a server (:mod:`experiments.engines.server`) fork its trials,
so a trial costs no more than it does locally. A trial's files are written on the machine it runs on and come
back with its end, so the machines need no common disk, only this repository and its environment at the same
paths. Trials of an actor that is lost are run again elsewhere.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments import records, trial
from experiments.engines.base import Event
from experiments.engines.client import Client
from experiments.engines.environment import thread_variables, usable_cores
from experiments.engines.local import conclude
from experiments.errors import ExperimentError
from experiments.plan import TrialSpec
from experiments.submissions import ROOT

try:
    import ray
except ModuleNotFoundError as error:
    raise ExperimentError("--engine ray needs Ray; install it: pip install ray") from error

ATTEMPTS = 3
"""Times a trial is started before the loss of its machine counts as its failure."""
Files = dict[str, bytes]


class Place:
    """Runs one trial at a time on some machine of the cluster.

    Args:
        threads: of a trial.
        on_gpu: whether trials use the GPUs that Ray gave to this actor.
        timeout: seconds after which a trial is ended.
    """

    def __init__(self, threads: int, on_gpu: bool, timeout: float | None):
        self._variables = thread_variables(threads, on_gpu)
        self._timeout = timeout
        self._clients: dict[str, Client] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="trials-")

    def run(self, values: dict[str, Any]) -> Files:
        """Run a trial.

        Args:
            values: fields of its specification.

        Returns:
            Its files by name.
        """
        spec, root = TrialSpec(**values), Path(self._folder.name)
        client = self._clients.get(spec.framework)
        if client is None:
            client = self._clients[spec.framework] = Client(spec.framework, self._variables)
        started = time.monotonic()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        client.submit(0, spec, root, devices, self._timeout)
        ended = []
        while not ended:
            ended = client.receive()
        conclude(spec, root, ended[0], time.monotonic() - started)
        files = {path.name: path.read_bytes() for path in spec.directory(root).iterdir()}
        shutil.rmtree(spec.directory(root))
        return files


class RayEngine:
    """Runs trials on a Ray cluster.

    Args:
        address: of the cluster; None starts one on this machine for as long as the engine runs.
        workers: trials at a time; by default as many as the cluster has room for.
        threads: CPUs of each trial.
        devices_per_trial: GPUs of each trial, on a cluster with GPUs.
        cpu_only: leave GPUs alone.
        timeout: seconds after which a trial is ended and counts as failed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        threads: int | None = None,
        devices_per_trial: int = 1,
        cpu_only: bool = False,
        timeout: float | None = None,
    ):
        own = address is None and not ray.is_initialized()
        if not ray.is_initialized():
            # Without its dashboard, a cluster of this machine's own starts in seconds.
            local = {"num_cpus": max(workers or 0, usable_cores()), "include_dashboard": False}
            ray.init(
                address, log_to_driver=False, runtime_env=_environment(), **(local if own else {})
            )
        self._owned = own
        resources = ray.cluster_resources()
        gpus = 0 if cpu_only else int(resources.get("GPU", 0))
        self._gpus = devices_per_trial if gpus else 0
        self._threads = threads or 1
        room = gpus // devices_per_trial if gpus else int(resources["CPU"]) // self._threads
        self.workers = workers or room
        self._timeout = timeout
        if not 1 <= self.workers <= room:
            raise ExperimentError(
                f"the cluster has room for {room} trials of {self._threads} CPUs and {self._gpus} GPUs "
                f"at a time, {self.workers} are wanted; change --workers, --threads or --devices-per-trial"
            )

    def run(
        self, specs: Sequence[TrialSpec], root: Path, on_event: Callable[[Event], None]
    ) -> None:
        """Run all trials; see :class:`experiments.engines.base.Engine`."""
        try:
            _Loop(self._make_place, self.workers, root, on_event).run(specs)
        finally:
            if self._owned:
                ray.shutdown()

    def _make_place(self) -> Any:
        actor = ray.remote(num_cpus=self._threads, num_gpus=self._gpus)(Place)
        return actor.remote(self._threads, bool(self._gpus), self._timeout)


class _Loop:
    """Keeps every actor busy while there are trials left."""

    def __init__(
        self,
        make_place: Callable[[], Any],
        workers: int,
        root: Path,
        on_event: Callable[[Event], None],
    ):
        self._make_place = make_place
        self._root = root
        self._on_event = on_event
        self._free = [make_place() for _ in range(workers)]
        self._running: dict[Any, tuple[TrialSpec, Any]] = {}
        self._attempts: dict[str, int] = {}

    def run(self, specs: Sequence[TrialSpec]) -> None:
        waiting = list(specs)[::-1]
        while waiting or self._running:
            while waiting and self._free:
                self._start(waiting.pop())
            ready, _ = ray.wait(list(self._running), num_returns=1)
            for reference in ready:
                spec, place = self._running.pop(reference)
                try:
                    files, lost = ray.get(reference), None
                except ray.exceptions.RayActorError as error:
                    files, lost, place = None, error, self._make_place()
                self._free.append(place)
                if lost is not None and self._attempts[spec.title] < ATTEMPTS:
                    waiting.append(spec)
                    continue
                # The place is taken again before the end of the last trial is looked at.
                if waiting:
                    self._start(waiting.pop())
                self._finish(spec, files, lost)
        for place in self._free:
            ray.kill(place)

    def _start(self, spec: TrialSpec) -> None:
        place = self._free.pop()
        self._running[place.run.remote(asdict(spec))] = (spec, place)
        first = self._attempts.setdefault(spec.title, 0) == 0
        self._attempts[spec.title] += 1
        if first:
            self._on_event(Event(spec=spec, record=None))

    def _finish(self, spec: TrialSpec, files: Files | None, lost: BaseException | None) -> None:
        """Store what a trial left, or that its machine was lost too often."""
        if files is not None:
            _store(files, spec, self._root)
        elif lost is not None:
            reason = f"its worker was lost {ATTEMPTS} times: {trial.describe(lost)}"
            records.save(trial.failure(spec, reason), self._root)
        self._on_event(Event(spec=spec, record=records.load(spec, self._root)))


def _environment() -> dict[str, Any]:
    """What workers need to find this package."""
    search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"env_vars": {"PYTHONPATH": search}}


def _store(files: Files, spec: TrialSpec, root: Path) -> None:
    """Write a trial's files, the record last: a trial is over when its record is there."""
    folder = trial.prepare(spec, root)
    for name, content in files.items():
        if name not in (records.RECORD, trial.SPEC):
            (folder / name).write_bytes(content)
    records.save(records.parse(files[records.RECORD].decode()), root)
