"""Join the processes of one run, started by `torchrun` or as the tasks of Slurm's `srun`; see `machine.processes`."""

import ctypes
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.liveness import GRACE_SECONDS, Watch
from farkas_exp.machine.processes import ALONE, Group, Processes
from farkas_exp.machine.signals import leave

JOIN_TIMEOUT = timedelta(minutes=5)
"""The time the processes have to find each other."""

TIMEOUT = timedelta(hours=1)
"""How long a process waits for a living one (`machine.liveness`), such as the first while it measures."""

GPU_TIMEOUT = timedelta(minutes=10)
"""The limit of an operation between GPUs, which nothing else can end; all have agreed before that it begins."""


def current() -> Processes:
    """The processes that train together; outside of `group`, `ALONE`."""
    return Group.processes


def is_broken() -> bool:
    """Whether the processes have lost each other, so that only a new command can go on."""
    return Group.broken


@contextmanager
def group(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Within the block, join the processes that this one was started with (`from_environment`).

    Raises:
        UserError: they cannot find each other.
    """
    processes = from_environment(environment)
    if not processes.are_several:
        yield processes
        return
    _join(processes, environment)
    try:
        yield processes
    finally:
        _part()


def _join(processes: Processes, environment: Mapping[str, str]) -> None:
    import torch
    import torch.distributed as dist

    host, port = meeting_point(environment)
    # torchrun serves the store itself
    serves = processes.is_first and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        place = (host, port, processes.world_size, serves, JOIN_TIMEOUT)
        store = dist.TCPStore(*place)  # pyright: ignore[reportPrivateImportUsage]
        word = f"{environment.get('TORCHELASTIC_RUN_ID', '')}/{environment.get('TORCHELASTIC_RESTART_COUNT', '')}"
        prefix = f"farkas_exp/{word}"
        store.set_timeout(TIMEOUT)
        Group.store = dist.PrefixStore(prefix, store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(
            backend, store=Group.store, rank=processes.rank, world_size=processes.world_size, timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        who = f"process {processes.rank} of {processes.world_size}"
        raise UserError(f"{who}: it cannot reach the others at {host}:{port} ({reason})") from None
    Group.processes, Group.broken = processes, False
    if torch.cuda.is_available():
        gpus: Any = dist.group.WORLD._get_backend(torch.device("cuda"))  # type: ignore[union-attr]
        gpus._set_default_timeout(GPU_TIMEOUT)
    # a second connection to the store, free while the main thread waits at the first
    second = dist.TCPStore(host, port, None, False, timedelta(seconds=GRACE_SECONDS))  # pyright: ignore[reportPrivateImportUsage]
    signs = dist.PrefixStore(f"{prefix}/liveness", second)  # pyright: ignore[reportPrivateImportUsage]
    Group.watch = Watch(signs, processes.rank, processes.world_size, _lost)
    dist.barrier()
    Group.watch.start()


def _lost(line: str) -> None:
    """Ask this process to stop, and end it if its main thread hangs, waiting for the lost process.

    If all live, and only their parent was killed, they stop together with a checkpoint.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if Group.broken or Group.watch is None:
            return
        time.sleep(0.1)
    leave(f"{line}; the same command goes on from the last checkpoint")


def _part() -> None:
    """Leave the group without waiting for another process or thread."""
    import torch
    import torch.distributed as dist

    if Group.watch is not None:
        Group.watch.stop()
    whole: Any = dist.group.WORLD
    # Never run its destructor: it holds Python's lock and joins threads, one of which may need that lock to release a
    # tensor (PyTorch 2.6), or wait for a process that is gone.
    for kept in [whole] if Group.broken else [whole._get_backend(torch.device("cpu"))]:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    if not Group.broken:
        dist.destroy_process_group()
    Group.processes, Group.store, Group.watch, Group.broken = ALONE, None, None, False


def from_environment(environment: Mapping[str, str]) -> Processes:
    """The processes as described by `torchrun`, or by Slurm if `srun` has started several tasks."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in environment:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
    else:
        return ALONE
    try:
        rank, world_size, local_rank = (int(environment.get(name, "0")) for name in names)
    except ValueError:
        raise UserError(f"{', '.join(names)}: expected whole numbers in the environment; start with torchrun") from None
    if not 0 <= rank < world_size or local_rank < 0:
        raise UserError(f"{names[0]}: {rank} is no process of {world_size} ({names[1]}); start with torchrun")
    return Processes(rank, world_size, local_rank)


def meeting_point(environment: Mapping[str, str]) -> tuple[str, int]:
    """Host and port where the processes meet: MASTER_ADDR and MASTER_PORT, or derived from the Slurm step.

    On Slurm these are the first node, and a port made of the numbers of job and step.
    """
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    if not host:
        raise UserError("MASTER_ADDR: missing in the environment; start the processes with torchrun or srun")
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = environment.get("MASTER_PORT") or str(20000 + (job * 97 + step) % 12000)
    if not port.isdecimal() or int(port) >= 2**16:
        raise UserError(f"MASTER_PORT: expected a whole number below {2**16} in the environment, got {port!r}")
    return host, int(port)


def first_host(nodes: str) -> str:
    """The first name in a Slurm list of nodes: gpu03 of `gpu[03-05,9],login`; empty for an empty list."""
    match = re.match(r"([^,\[\]]*)(?:\[(\w+)[^\]]*\])?([^,\[\]]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""
