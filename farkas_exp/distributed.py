"""Several processes that train one run together: who they are, how they agree, and what happens when one fails.

They are started by `torchrun`, or by Slurm's `srun` as one task each. The first one (rank 0) is the command: it
composes, decides what is trained, and alone writes. The others follow it (`followers.py`). With one process every
method here is a matter of course, and torch is not imported.

What is agreed on passes through the CPU (Gloo), also where gradients pass through the GPUs (NCCL), so that no
agreement waits for a device.
"""

import os
import re
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from farkas_exp.errors import Interrupted, UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""So long a process waits for another one that lives and says nothing, such as the first while it measures."""

_FAILURE = "failure"
"""The key of the store under which a process that fails leaves the reason."""


class RankFailed(Exception):  # noqa: N818 - another process's error
    """Another process of this run failed; the message says which and why, `details` is its traceback."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


@dataclass(frozen=True)
class Processes:
    """The processes that train together, as one of them sees them.

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
        dist.broadcast_object_list(box, src=0, device=_cpu())
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in every process."""
        if not self.are_several:
            return [value]
        import torch
        import torch.distributed as dist

        box = [torch.frombuffer(bytearray(_packed(value)), dtype=torch.uint8)]
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(box[0])]))
        return [self._from(rank, box[0], int(size)) for rank, size in enumerate(sizes)]

    def _from(self, rank: int, own: "torch.Tensor", size: int) -> Any:
        import torch
        import torch.distributed as dist

        data = own.clone() if rank == self.rank else torch.empty(size, dtype=torch.uint8)
        dist.broadcast(data, src=rank)
        return _unpacked(data.numpy().tobytes())

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

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.agree(False)

    def from_first(self, function: Callable[[], T]) -> T:
        """What `function` returns in the first process, in every one; an error there is one everywhere."""
        if not self.are_several:
            return function()
        box: list[T] = []
        self.together(lambda: box.append(function()) if self.is_first else None)
        return self.broadcast(box[0] if box else None)  # type: ignore[return-value]

    def together(self, function: Callable[[], T]) -> T:
        """Run `function`, which must not communicate, in every process; an error of one is one of all.

        Raises:
            UserError: also in the processes that had none, if that is what another one had.
            RankFailed: another process had another error.
        """
        if not self.are_several:
            return function()
        error: Exception | None = None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001 - told to the others, then raised
            error = raised
        said = self.gather(None if error is None else _described(self.rank, error))
        if error is not None:
            raise error
        failure = next((failure for failure in said if failure is not None), None)
        if failure is not None:
            raise _as_error(failure)
        return result

    def in_turn(self, function: Callable[[], T]) -> T:
        """`together`, but first on each machine is its process 0: it downloads and fills caches for the others."""
        if not self.are_several:
            return function()
        done = [self.together(lambda: [function()] if self.local_rank == turn else []) for turn in (0,)]
        rest = self.together(lambda: [] if self.local_rank == 0 else [function()])
        return (done[0] or rest)[0]

    def share_buffers(self, model: "torch.nn.Module") -> None:
        """Give every process the first one's buffers: the running statistics of batch norm."""
        self._share(model.buffers())

    def share_weights(self, model: "torch.nn.Module") -> None:
        """Give every process the first one's parameters and buffers."""
        self._share([*model.parameters(), *model.buffers()])

    def _share(self, tensors: "Iterator[torch.Tensor] | Sequence[torch.Tensor]") -> None:
        if not self.are_several:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)
