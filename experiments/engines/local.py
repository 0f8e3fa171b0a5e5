"""Trials on this machine, each a process of its own, as many at a time as there is room for."""

import selectors
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import records, trial
from experiments.engines.base import Event
from experiments.engines.client import Client, Ended
from experiments.engines.environment import Room, device_variables, thread_variables
from experiments.plan import TrialSpec
from experiments.records import Record


class LocalEngine:
    """Runs trials on this machine.

    Args:
        room: how they share it.
        timeout: wall-clock seconds after which a trial is ended and counts as failed; None for never.
        inherited: file descriptors that trials keep open.
    """

    def __init__(self, room: Room, timeout: float | None = None, inherited: Sequence[int] = ()):
        self.room = room
        self.workers = room.workers
        self._timeout = timeout
        self._inherited = inherited

    def run(
        self, specs: Sequence[TrialSpec], root: Path, on_event: Callable[[Event], None]
    ) -> None:
        """Run all trials; see :class:`experiments.engines.base.Engine`."""
        variables = thread_variables(self.room.threads, bool(self.room.devices))
        clients = {
            framework: Client(framework, variables, self._inherited)
            for framework in dict.fromkeys(spec.framework for spec in specs)
        }
        try:
            _Loop(self.room, self._timeout, clients, root, on_event).run(specs)
        finally:
            for client in clients.values():
                client.close()


class _Loop:
    """Keeps every place occupied while there are trials left."""

    def __init__(
        self,
        room: Room,
        timeout: float | None,
        clients: dict[str, Client],
        root: Path,
        on_event: Callable[[Event], None],
    ):
        self._timeout = timeout
        self._clients = clients
        self._root = root
        self._on_event = on_event
        self._places = list(room.devices or ((),) * room.workers)
        self._running: dict[int, tuple[TrialSpec, tuple[str, ...], float]] = {}
        self._selector = selectors.DefaultSelector()
        for client in clients.values():
            self._selector.register(client.fileno(), selectors.EVENT_READ, client)

    def run(self, specs: Sequence[TrialSpec]) -> None:
        waiting = list(enumerate(specs))[::-1]
        while waiting or self._running:
            while waiting and self._places:
                self._start(*waiting.pop())
            for key, _ in self._selector.select():
                for ended in key.data.receive():
                    # The place is taken again before the end of the last trial is looked at.
                    spec, place, started = self._running.pop(ended.number)
                    self._places.append(place)
                    if waiting:
                        self._start(*waiting.pop())
                    record = conclude(spec, self._root, ended, time.monotonic() - started)
                    self._on_event(Event(spec=spec, record=record))

    def _start(self, number: int, spec: TrialSpec) -> None:
        place = self._places.pop()
        self._running[number] = (spec, place, time.monotonic())
        self._clients[spec.framework].submit(
            number, spec, self._root, device_variables(place), self._timeout
        )
        self._on_event(Event(spec=spec, record=None))


def conclude(spec: TrialSpec, root: Path, ended: Ended, seconds: float) -> Record:
    """Return the record of a trial whose process has ended; write one if it did not get to it.

    Args:
        spec: of the trial.
        root: folder of the comparison.
        ended: how its process ended.
        seconds: how long it ran.

    Returns:
        The record.
    """
    record = records.load(spec, root)
    if record is None:
        record = trial.failure(spec, _reason(ended.status), seconds)
        records.save(record, root)
    return record


def _reason(status: int) -> str:
    """What an exit status says."""
    if status >= 0:
        return f"the process ended with status {status} before it wrote a record; see log.txt"
    names = {each.value: each.name for each in signal.Signals}
    name = names.get(-status, str(-status))
    advice = {
        "SIGKILL": "; if nobody killed it, memory ran out",
        "SIGALRM": "; it ran longer than --timeout",
    }
    return f"the process was ended by {name}{advice.get(name, '')}"
