"""Several processes that train one run together: who they are, how they agree, and what happens when one fails.

They are started by `torchrun`, or by Slurm's `srun` as one task each. The first one (rank 0) is the command: it
composes, decides what is trained, and alone writes. The others follow it (`launch/workers.py`). With one process
nothing here does anything, and torch is not imported.

What is agreed on passes through the CPU (Gloo), also where gradients pass through the GPUs (NCCL), so that no
agreement waits for a device.
"""

import ctypes
import json
import os
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from farkas_exp.machine.errors import Interrupted, UserError
from farkas_exp.machine.liveness import GRACE_SECONDS, Watch, leave
from farkas_exp.machine.signals import STATUS as TO_BE_CONTINUED

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

JOIN_TIMEOUT = timedelta(minutes=5)
"""So long the processes have to find each other."""

TIMEOUT = timedelta(hours=1)
"""So long a process waits for another one that lives (`machine.liveness`), such as the first while it measures."""

GPU_TIMEOUT = timedelta(minutes=10)
"""So long an operation between GPUs may take; before it, all processes have agreed on the CPU that it begins."""

LOST = "another process of this run ended without a word (killed, or out of memory)"

_FAILURE = "failure"
"""The key of the store under which a process that fails leaves the reason."""


class RankFailed(Exception):  # noqa: N818 - another process's error
    """Another process of this run failed; the message says which and why, `details` is its traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Processes:
    """The processes that train together, as one of them sees them. Its methods are to be called by all of them.

    Attributes:
        rank: number of this process, from 0.
        world_size: how many they are.
        local_rank: number of this process on its machine, from 0.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that decides and writes."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    def broadcast(self, value: T) -> T:
        """The first process's `value`, in every process."""
        if not self.are_several:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, in every process."""
        if not self.are_several:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sums over all processes, in double precision."""
        if not self.are_several:
            return list(numbers)
        import torch
        import torch.distributed as dist

        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def agree(self, flag: bool) -> bool:
        """Whether any process says yes."""
        if not self.are_several:
            return flag
        import torch
        import torch.distributed as dist

        said = torch.tensor([int(flag)])
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def first_said(self, value: T | None) -> T | None:
        """The value of the lowest rank that has one."""
        return next((said for said in self.gather(value) if said is not None), None)

    def from_first(self, function: Callable[[], T]) -> T:
        """What `function` returns in the first process, in every one; an error there is one everywhere."""
        value = self.together(lambda: function() if self.is_first else None)
        return cast(T, self.broadcast(value))

    def together(self, function: Callable[[], T]) -> T:
        """Run `function`, which must not communicate, in every process; an error of one is one of all.

        Raises:
            UserError: also in the processes that had none, if that is what another one had.
            RankFailed: another process had another error.
        """
        if not self.are_several:
            return function()
        result, error = None, None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001 - told to the others, then raised
            error = raised
        said = self.first_said(None if error is None else _described(self.rank, error))
        if error is not None:
            raise error
        if said is not None:
            raise _as_error(*said)
        return cast(T, result)

    def in_turn(self, function: Callable[[], T]) -> T:
        """`together`, but first in process 0 of each machine: it downloads and fills caches for the others."""
        if not self.are_several:
            return function()
        first = self.together(lambda: function() if self.local_rank == 0 else None)
        others = self.together(lambda: None if self.local_rank == 0 else function())
        return cast(T, first if self.local_rank == 0 else others)

    def share(self, tensors: "Iterable[torch.Tensor]") -> None:
        """Overwrite the tensors of every process with the first one's, on whatever device they are."""
        if not self.are_several:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    @contextmanager
    def within_reach(self) -> Iterator[None]:
        """Within the block the loss of another process is no error of this one.

        Raises:
            Interrupted: another process is gone; the last checkpoint, if any, is there.
        """
        try:
            yield
        except Exception as error:
            if not self.are_several or not _is_echo(error):
                raise
            _Group.broken = True
            raise Interrupted(f"{LOST}; the same command goes on from the last checkpoint") from None

    @contextmanager
    def bound_together(self) -> Iterator[None]:
        """Within the block the processes depend on each other at every step: an error of one ends the command of all.

        `Interrupted` is agreed on, so it is no such error.

        Raises:
            RankFailed: another process failed.
            Interrupted: another process died; the last checkpoint is there.
        """
        if not self.are_several:
            yield
            return
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            _Group.broken = True
            if not _is_echo(error):
                _leave_word(self.rank, error)
                raise
            said = _read_word()
            if said is None:
                raise Interrupted(f"{LOST}; the same command goes on from the last checkpoint") from None
            raise RankFailed(*said) from None


ALONE = Processes()
"""The one process of an ordinary command."""


class _Group:
    """What this process is part of; set by `group`."""

    processes: Processes = ALONE
    store: Any = None
    watch: Watch | None = None
    broken: bool = False


def current() -> Processes:
    """The processes that train together; `ALONE` outside of `group`."""
    return _Group.processes


def is_broken() -> bool:
    """Whether the processes can no longer reach each other, so that only a new command can go on."""
    return _Group.broken


@contextmanager
def group(environment: Mapping[str, str] = os.environ) -> Iterator[Processes]:
    """Within the block this process belongs to the ones that it was started with (`from_environment`).

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
    # torchrun keeps a store of its own at that place.
    serves = processes.is_first and environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        place = (host, port, processes.world_size, serves, JOIN_TIMEOUT)
        store = dist.TCPStore(*place)  # pyright: ignore[reportPrivateImportUsage]
        word = f"{environment.get('TORCHELASTIC_RUN_ID', '')}/{environment.get('TORCHELASTIC_RESTART_COUNT', '')}"
        prefix = f"farkas_exp/{word}"
        store.set_timeout(TIMEOUT)
        _Group.store = dist.PrefixStore(prefix, store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(
            backend, store=_Group.store, rank=processes.rank, world_size=processes.world_size, timeout=TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        who = f"process {processes.rank} of {processes.world_size}"
        raise UserError(f"{who}: it cannot reach the others at {host}:{port} ({reason})") from None
    _Group.processes, _Group.broken = processes, False
    _limit_gpu_operations()
    _Group.watch = Watch(_second_connection(host, port, prefix), processes.rank, processes.world_size, _lost)
    dist.barrier()
    _Group.watch.start()


def _second_connection(host: str, port: int, prefix: str) -> Any:
    """A connection to the store that is free while the main thread waits at the other one."""
    import torch.distributed as dist

    store = dist.TCPStore(host, port, None, False, timedelta(seconds=GRACE_SECONDS))  # pyright: ignore[reportPrivateImportUsage]
    return dist.PrefixStore(f"{prefix}/liveness", store)  # pyright: ignore[reportPrivateImportUsage]


def _limit_gpu_operations() -> None:
    """Shorten the timeout of operations between GPUs, whose waiting nothing else can end."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        backend: Any = dist.group.WORLD._get_backend(torch.device("cuda"))  # type: ignore[union-attr]
        backend._set_default_timeout(GPU_TIMEOUT)


def _lost(line: str) -> None:
    """Ask this process to stop, and end it if its main thread hangs, as it does if it waits for the one that is lost.

    Where all live, and only what has started them was killed, they stop together with a checkpoint.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if _Group.broken or _Group.watch is None:
            return
        time.sleep(0.1)
    leave(f"{line}; the same command goes on from the last checkpoint", TO_BE_CONTINUED)


def _part() -> None:
    """Leave the group, without ever waiting for another process or thread."""
    import torch
    import torch.distributed as dist

    if _Group.watch is not None:
        _Group.watch.stop()
    whole: Any = dist.group.WORLD
    # Its destructor holds Python's lock and joins threads. One of them may be about to release a tensor, for which it
    # needs that lock (PyTorch 2.6), or wait for a process that is no more. So it is never run.
    for kept in [whole] if _Group.broken else [whole._get_backend(torch.device("cpu"))]:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    if not _Group.broken:
        dist.destroy_process_group()
    _Group.processes, _Group.store, _Group.watch, _Group.broken = ALONE, None, None, False


def from_environment(environment: Mapping[str, str]) -> Processes:
    """The processes as `torchrun` describes them, or Slurm where `srun` has started several tasks.

    Raises:
        UserError: the variables contradict each other.
    """
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
    """Host and port where the processes find each other: MASTER_ADDR and MASTER_PORT, or made of a Slurm step's.

    On Slurm that is the first node, and a port by the numbers of job and step.

    Raises:
        UserError: neither says it.
    """
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    if not host:
        raise UserError("MASTER_ADDR: missing in the environment; start the processes with torchrun or srun")
    job, step = (int(environment.get(name, "0")) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    port = environment.get("MASTER_PORT") or str(20000 + (job * 97 + step) % 12000)
    if not port.isdecimal():
        raise UserError(f"MASTER_PORT: expected a whole number in the environment, got {port!r}")
    return host, int(port)


def first_host(nodes: str) -> str:
    """The first name of a Slurm list of nodes: `gpu[03-05,9],login` begins with gpu03; empty for an empty list."""
    match = re.match(r"([^,\[\]]*)(?:\[(\w+)[^\]]*\])?([^,\[\]]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else ""


def _described(rank: int, error: BaseException) -> tuple[bool, str, str]:
    """An error for another process: whether it is a user's mistake, its message, its traceback."""
    if isinstance(error, UserError):
        return True, str(error), ""
    message = f"process {rank}: {type(error).__name__}: {' '.join(str(error).split())}"
    return False, message, "".join(traceback.format_exception(error))


def _as_error(is_users: bool, message: str, details: str) -> Exception:
    return UserError(message) if is_users else RankFailed(message, details)


_ECHOES = ("closed by peer", "connection reset", "broken pipe", "connection refused", "socket closed")


def _is_echo(error: BaseException) -> bool:
    """Whether this error only says that another process has gone."""
    import torch.distributed as dist

    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    return isinstance(error, RuntimeError) and any(echo in str(error).lower() for echo in _ECHOES)


def _leave_word(rank: int, error: BaseException) -> None:
    _, message, details = _described(rank, error)
    with suppress(RuntimeError):
        _Group.store.set(_FAILURE, json.dumps([message, details]))


def _read_word() -> tuple[str, str] | None:
    """What a process that failed has left: message and traceback. It may be the one that kept the store."""
    with suppress(RuntimeError):
        if _Group.store.check([_FAILURE]):
            message, details = json.loads(_Group.store.get(_FAILURE))
            return message, details
    return None
