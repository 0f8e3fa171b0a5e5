"""The other end of a server: starts it, hands it trials, hears when they end."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from experiments.errors import ExperimentError
from experiments.plan import TrialSpec
from experiments.submissions import ROOT


class Ended(NamedTuple):
    """A trial's process has ended.

    Attributes:
        number: that the trial was submitted under.
        status: exit status; negative for a signal.
    """

    number: int
    status: int


class Client:
    """A server of one framework.

    Args:
        framework: ``jax`` or ``pytorch``.
        environment: variables of the server and its trials, beside those of this process.
        inherited: file descriptors that server and trials keep open.
    """

    def __init__(
        self, framework: str, environment: Mapping[str, str], inherited: Sequence[int] = ()
    ):
        self.framework = framework
        search = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.engines.server", framework, str(os.getpid())],
            cwd=ROOT,
            env={**os.environ, **environment, "PYTHONPATH": search},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=tuple(inherited),
            bufsize=0,
        )
        self._pending = b""

    def fileno(self) -> int:
        """Return what to wait for with a selector."""
        return self._process.stdout.fileno()

    def submit(
        self,
        number: int,
        spec: TrialSpec,
        root: Path,
        environment: Mapping[str, str],
        timeout: float | None = None,
    ) -> None:
        """Have a trial started.

        Args:
            number: to report it under.
            spec: of the trial.
            root: folder of the comparison.
            environment: variables of this trial.
            timeout: seconds after which it is ended by SIGALRM.
        """
        order = {
            "id": number,
            "root": str(root.resolve()),
            "spec": asdict(spec),
            "environment": dict(environment),
            "timeout": timeout,
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def receive(self) -> list[Ended]:
        """Return what has ended; call it when there is something to read.

        Raises:
            ExperimentError: if the server itself has ended.
        """
        data = os.read(self.fileno(), 1 << 16)
        if not data:
            raise ExperimentError(
                f"the {self.framework} server ended with status {self._process.wait()}; "
                "is the framework installed? Trials that were running are repeated at the next start"
            )
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [Ended(answer["id"], answer["status"]) for answer in map(json.loads, lines)]

    def close(self) -> None:
        """End the server and whatever it still runs."""
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
