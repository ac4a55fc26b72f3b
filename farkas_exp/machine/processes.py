"""The processes that train one run together: how they agree, and what happens when one fails.

The first one (rank 0) is the command: it composes, decides what is trained, and alone writes. The others follow it
(`launch/workers.py`). With one process nothing here does anything, and torch is not imported.

They agree through the CPU (Gloo), even where gradients pass through GPUs (NCCL), so that no agreement waits for a
device.
"""

import json
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from farkas_exp.machine.errors import Interrupted, UserError, in_one_line
from farkas_exp.machine.liveness import Watch

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

LOST = (
    "another process of this run ended without a message (killed, or out of memory); the same command goes on from the"
    " last checkpoint"
)

_FAILURE = "failure"
"""The key of the store under which a failing process leaves the reason."""


class RankFailed(Exception):  # noqa: N818 - another process's error
    """Another process of this run failed: the message says which and why, `details` is its traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Processes:
    """The processes that train together, as one of them sees them. All must call each method together.

    Ranks are numbers from 0; `local_rank` is that on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process decides and writes."""
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
        """The sums over all processes, added in the order of their ranks."""
        return [sum(parts) for parts in zip(*self.gather(numbers), strict=True)]

    def agree(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        if not self.are_several:
            return flag
        import torch
        import torch.distributed as dist

        said = torch.tensor([int(flag)])
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return bool(said)

    def first_said(self, value: T | None) -> T | None:
        """The value of the lowest rank that has one, or None."""
        return next((said for said in self.gather(value) if said is not None), None)

    def from_first(self, function: Callable[[], T]) -> T:
        """Call `function` in the first process and return its result, or raise its error, in every one."""
        value = self.together(lambda: function() if self.is_first else None)
        return cast(T, self.broadcast(value))

    def together(self, function: Callable[[], T]) -> T:
        """Call `function`, which must not communicate, in every process; an error of one is raised in all.

        Raises:
            UserError: this or another process raised one.
            RankFailed: another process raised another error.
        """
        if not self.are_several:
            return function()
        try:
            result = function()
        except Exception as error:
            self.first_said(_described(self.rank, error))
            raise
        said: tuple[bool, str, str] | None = self.first_said(None)
        if said is not None:
            is_users, message, details = said
            raise UserError(message) if is_users else RankFailed(message, details)
        return result

    def in_turn(self, function: Callable[[], T]) -> T:
        """`together`, but first in process 0 of each machine, which downloads and fills caches for the others."""
        if not self.are_several:
            return function()
        first = self.together(lambda: function() if self.local_rank == 0 else None)
        others = self.together(lambda: None if self.local_rank == 0 else function())
        return cast(T, first if self.local_rank == 0 else others)

    def share(self, tensors: "Iterable[torch.Tensor]") -> None:
        """Overwrite the tensors of every process with those of the first, on any device."""
        if not self.are_several:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)

    @contextmanager
    def within_reach(self) -> Iterator[None]:
        """Within the block, turn the loss of another process into an interruption.

        Raises:
            Interrupted: another process is gone.
        """
        try:
            yield
        except Exception as error:
            if not self.are_several or not _is_echo(error):
                raise
            Group.broken = True
            raise Interrupted(LOST) from None

    @contextmanager
    def bound_together(self) -> Iterator[None]:
        """Within the block, which all enter together, an error of one process ends the command of all.

        `Interrupted` does not, since all agree on it.

        Raises:
            RankFailed: another process failed.
            Interrupted: another process died.
        """
        if not self.are_several:
            yield
            return
        try:
            yield
        except Interrupted:
            raise
        except BaseException as error:
            Group.broken = True
            if not _is_echo(error):
                _, message, details = _described(self.rank, error)
                with suppress(RuntimeError):
                    Group.store.set(_FAILURE, json.dumps([message, details]))
                raise
            said = _read_failure()
            if said is None:
                raise Interrupted(LOST) from None
            raise RankFailed(*said) from None


ALONE = Processes()
"""The one process of an ordinary command."""


class Group:
    """The group of this process; set by `distributed.group`."""

    processes: Processes = ALONE
    store: Any = None
    watch: Watch | None = None
    broken: bool = False


def _described(rank: int, error: BaseException) -> tuple[bool, str, str]:
    """An error for other processes: whether it is a user's mistake, its message, its traceback."""
    if isinstance(error, UserError):
        return True, str(error), ""
    message = f"process {rank}: {in_one_line(error)}"
    return False, message, "".join(traceback.format_exception(error))


_ECHOES = ("closed by peer", "connection reset", "broken pipe", "connection refused", "socket closed")


def _is_echo(error: BaseException) -> bool:
    """Whether this error only reports that another process is gone."""
    import torch.distributed as dist

    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError)):
        return True
    return isinstance(error, RuntimeError) and any(echo in str(error).lower() for echo in _ECHOES)


def _read_failure() -> tuple[str, str] | None:
    """Message and traceback left by a failed process, if the store, which may have gone with it, has them."""
    with suppress(RuntimeError):
        if Group.store.check([_FAILURE]):
            message, details = json.loads(Group.store.get(_FAILURE))
            return message, details
    return None
