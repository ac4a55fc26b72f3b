"""Processes that decode images into memory that they share with the trainer.

In place of torch's DataLoader, given the same pieces and keeping its processes (`python -m benchmarks.loader`, two
processes on two busy cores of an Intel Xeon, PyTorch 2.15): a DataLoader's process imports PyTorch, which takes 320 MB
in place of 32 and 2.7 more seconds of processor time to start, and it decodes 277 to 326 images in place of 317 to 375
for a second of processor time.

Batches are cut into pieces, and the pieces dealt to the workers in turn, so that all of them work on the batch that is
needed next. Pixels travel as bytes through shared memory; pipes carry only what is to be done. A worker that has lost
its trainer ends by itself, and a trainer that has lost a worker says so.
"""

import itertools
import mmap
import multiprocessing
import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from farkas_exp.data.files.decode import Piece, View, quiet
from farkas_exp.machine.cores import cores
from farkas_exp.machine.errors import UserError

AHEAD = 3
"""Batches in memory: one in use, the others being decoded."""
PIECE = 16
"""Images in a piece; also the largest number of images that a worker still decodes for a reader that has gone."""


def default_workers(ranks: int = 1) -> int:
    """The cores that each of the ranks on this machine may use."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", ranks)))


@dataclass(frozen=True)
class Request:
    """A batch to decode: one path and view for each image, all of `height` x `width` pixels."""

    paths: Sequence[str]
    views: Sequence[View]
    height: int
    width: int
    draft: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded batch."""
        return len(self.paths) * self.height * self.width * 3

    def pieces(self, offset: int) -> Iterator[Piece]:
        """The batch in pieces, its first byte at `offset`."""
        for start in range(0, len(self.paths), PIECE):
            part = slice(start, start + PIECE)
            place = offset + start * self.height * self.width * 3
            yield Piece(place, self.height, self.width, self.paths[part], self.views[part], self.draft)


class DecodingPool:
    """Decodes batches in `workers` processes, or without any in this one; started on first use.

    One pass at a time: a pass that is begun ends the one before it.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._turn: Iterator[int] = iter(())
        self._sent: deque[int] = deque()
        self._memory: mmap.mmap | bytearray = bytearray()
        self._pass = 0

    def batches(self, requests: Iterable[Request], largest: int) -> Iterator[np.ndarray]:
        """Each batch as bytes (n, height, width, 3), in order; an array is overwritten once the next one is asked for.

        Args:
            requests: of at least one image each; taken `AHEAD` of what has been handed out.
            largest: bytes of the largest of them.

        Raises:
            UserError: an image that cannot be read, or no room for the batches.
            RuntimeError: a worker has died.
        """
        self._begin(AHEAD * largest)
        own, slots = self._pass, itertools.cycle(range(AHEAD))
        waiting: deque[tuple[Request, int, int]] = deque()
        upcoming = iter(requests)
        while True:
            while len(waiting) < (AHEAD if self.workers else 1) and (request := next(upcoming, None)) is not None:
                offset = next(slots) * largest
                waiting.append((request, offset, self._send(Piece.decode_into, request.pieces(offset))))
            if not waiting:
                return
            request, offset, count = waiting.popleft()
            for _ in range(count):
                self._receive()
            shape = (len(request.paths), request.height, request.width, 3)
            yield np.frombuffer(self._memory, np.uint8, request.nbytes, offset).reshape(shape)
            assert own == self._pass, "another pass over the data has begun"

    def map(self, function: Callable[[Sequence[Any]], Any], items: Sequence[Any], size: int = 64) -> Iterator[Any]:
        """`function` of every `size` items, in their order."""
        self._begin(0)
        parts = (items[start : start + size] for start in range(0, len(items), size))
        if not self.workers:
            yield from (_quietly(function, part) for part in parts)
            return
        for part in parts:
            self._send(function, [part])
            if len(self._sent) > 4 * self.workers:
                yield self._receive()
        while self._sent:
            yield self._receive()

    def close(self) -> None:
        """End the processes; the pool starts them again when it is used again."""
        _end(self._connections, self._processes)
        self._sent.clear()
        self._memory = bytearray()

    def _begin(self, room: int) -> None:
        self._pass += 1
        if self.workers and not self._connections:
            self._start()
        while self._sent:  # of a pass that was not read to its end
            with suppress(UserError):
                self._receive()
        if room > len(self._memory):
            self._memory = bytearray(room) if not self.workers else self._share(room)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of this process's threads
        for _ in range(self.workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), name="farkas_exp decoder", daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._turn = itertools.cycle(range(self.workers))
        # Before multiprocessing's own end, which sends the signal that workers ignore and then waits for them.
        Finalize(self, _end, (self._connections, self._processes), exitpriority=10)

    def _share(self, room: int) -> mmap.mmap:
        """Memory of at least `room` bytes that all workers have, too: a file that has no name any more."""
        path, memory = _make_file(room)
        try:
            for worker, connection in enumerate(self._connections):
                self._sent.append(worker)
                connection.send((_MAP, path))
            while self._sent:
                self._receive()
        finally:
            os.unlink(path)
        return memory

    def _send(self, function: Callable[..., Any], arguments: Iterable[Any]) -> int:
        """Deal the calls of `function` to the workers, and return their number."""
        count = 0
        for argument in arguments:
            count += 1
            if not self.workers:
                with memoryview(self._memory) as memory:
                    _quietly(function, argument, memory)
                continue
            worker = next(self._turn)
            self._sent.append(worker)
            try:
                self._connections[worker].send((function, argument))
            except OSError:
                raise self._lost(worker) from None
        return count if self.workers else 0

    def _receive(self) -> Any:
        """The result of the call that was sent first."""
        worker = self._sent.popleft()
        try:
            result, mistake = self._connections[worker].recv()
        except (EOFError, OSError):
            raise self._lost(worker) from None
        if mistake is not None:
            raise UserError(mistake)
        return result

    def _lost(self, worker: int) -> RuntimeError:
        process = self._processes[worker]
        process.join(1.0)
        code = process.exitcode
        self.close()
        return RuntimeError(
            f"a decoding process has ended (exit code {code}); if it was killed for memory, take fewer dataset.workers"
        )


_MAP = "map"


def _work(connection: Connection) -> None:
    """A worker's life: what comes over the connection is done, in its order, until nobody is there any more."""
    # The trainer decides when to stop, and a terminal or a cluster signals all its processes.
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    memory = memoryview(b"")
    while True:
        try:
            function, argument = connection.recv()
        except (EOFError, OSError):
            return
        result = mistake = None
        try:
            if function == _MAP:
                memory = _open(argument)
            else:
                result = _quietly(function, argument, memory)
        except UserError as error:
            mistake = str(error)
        try:
            connection.send((result, mistake))
        except OSError:
            return


def _quietly(function: Callable[..., Any], argument: Any, memory: memoryview | None = None) -> Any:
    with quiet():
        return function(argument, memory) if isinstance(argument, Piece) else function(argument)


def _make_file(room: int) -> tuple[str, mmap.mmap]:
    """A file of `room` bytes in memory, or on disk where memory has none, and its mapping.

    Raises:
        UserError: neither has room.
    """
    folders = [folder for folder in ("/dev/shm", tempfile.gettempdir()) if os.path.isdir(folder)]
    for folder in folders:
        descriptor, path = tempfile.mkstemp(prefix="farkas_exp-", dir=folder)
        try:
            # Room that is only promised would end a worker by a signal when it is used.
            os.posix_fallocate(descriptor, 0, room) if hasattr(os, "posix_fallocate") else os.ftruncate(
                descriptor, room
            )
            return path, mmap.mmap(descriptor, room)
        except OSError:
            os.unlink(path)
        finally:
            os.close(descriptor)
    raise UserError(
        f"dataset.workers: no room for {room / 2**20:.0f} MiB of decoded images in {' or '.join(folders)}; make some,"
        " or use smaller batches, or dataset.workers=0 to decode without processes"
    )


def _open(path: str) -> memoryview:
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0))


def _end(connections: list[Connection], processes: list[Any]) -> None:
    for connection in connections:
        connection.close()
    for process in processes:
        process.join(1.0)
        if process.is_alive():
            process.kill()
            process.join()
    connections.clear()
    processes.clear()
