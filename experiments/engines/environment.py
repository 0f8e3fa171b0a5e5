"""Threads and devices: how many trials fit on a machine, and what each of them may use."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from experiments.errors import ExperimentError


@dataclass(frozen=True, kw_only=True)
class Room:
    """How trials share a machine.

    Attributes:
        workers: trials at a time.
        threads: of each.
        devices: visible to each, one tuple of GPU identifiers per worker; empty for the CPU.
    """

    workers: int
    threads: int
    devices: tuple[tuple[str, ...], ...] = ()


def make_room(
    workers: int | None = None,
    threads: int | None = None,
    *,
    devices_per_trial: int = 1,
    cpu_only: bool = False,
) -> Room:
    """Divide this machine among trials.

    Args:
        workers: trials at a time; by default one per group of GPUs, or one per ``threads`` cores.
        threads: of each trial; by default 1 on CPUs, and an equal share of the cores beside GPUs.
        devices_per_trial: GPUs of each trial.
        cpu_only: leave GPUs alone.

    Returns:
        The division.

    Raises:
        ExperimentError: for numbers below 1, or more workers or devices than there are GPUs.
    """
    for name, value in (
        ("workers", workers),
        ("threads", threads),
        ("devices_per_trial", devices_per_trial),
    ):
        if value is not None and value < 1:
            raise ExperimentError(f"{name} must be at least 1, got {value}")
    cores, gpus = usable_cores(), () if cpu_only else visible_gpus()
    if not gpus:
        threads = threads or 1
        return Room(workers=workers or max(cores // threads, 1), threads=threads)
    groups = len(gpus) // devices_per_trial
    if (workers or 1) > groups:
        raise ExperimentError(
            f"{workers or 1} workers with {devices_per_trial} GPUs each need more than the {len(gpus)} "
            "there are; lower --workers or --devices-per-trial, or use --cpu"
        )
    workers = workers or groups
    chunks = [gpus[k * devices_per_trial : (k + 1) * devices_per_trial] for k in range(workers)]
    return Room(workers=workers, threads=threads or max(cores // workers, 1), devices=tuple(chunks))


def usable_cores() -> int:
    """Return the cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> tuple[str, ...]:
    """Return the identifiers of the GPUs: those of CUDA_VISIBLE_DEVICES, else all that the driver lists."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        return tuple(part.strip() for part in stated.split(",") if part.strip() not in ("", "-1"))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(done.stdout.split())


def thread_variables(threads: int, on_gpu: bool) -> dict[str, str]:
    """Return environment variables that must be set before a framework is imported.

    Args:
        threads: of a trial.
        on_gpu: whether trials use GPUs.
    """
    number = str(threads)
    variables = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), number
    )
    variables |= {"JAX_ENABLE_X64": "0"}
    if not on_gpu:
        variables |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if threads == 1:
        # NPROC sizes XLA's thread pool; this keeps a matrix product from being split up.
        flags = os.environ.get("XLA_FLAGS", "")
        variables["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return variables


def device_variables(devices: tuple[str, ...]) -> Mapping[str, str]:
    """Return environment variables that must be set before a framework touches its devices."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}
