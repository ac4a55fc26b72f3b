"""Processes that decode images into memory that they share with the trainer.

Why not torch's DataLoader, with the same pieces and persistent processes (`python -m benchmarks.loader`, two processes
on two busy cores of an Intel Xeon, PyTorch 2.15): its processes import PyTorch, which takes 320 MB rather than 32 and
2.7 more seconds of processor time to start, and decode 277 to 326 images rather than 317 to 375 in a second of it.

Batches are cut into pieces, which are dealt to the workers in turn, so that all work on the batch that is needed next.
Pixels travel through shared memory, and pipes carry only requests. A worker that has lost its trainer ends by itself,
and a trainer that has lost a worker reports it.
"""

import itertools
import mmap
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from farkas_exp.data.files.decode import View, decode, quiet
from farkas_exp.machine.cores import cores
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.signals import held

AHEAD = 3
"""Batches in memory: one in use, the others being decoded."""
PIECE = 16
"""Images in a piece; also the most that a worker still decodes for a reader that is gone."""


def workers_for(asked: int | None = None, ranks: int = 1) -> int:
    """The decoding processes of `dataset.workers`; by default one for each of the cores of a rank on this machine."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", ranks))) if asked is None else asked


class Request(NamedTuple):
    """A batch to decode, or a piece of it: a path and a view for each image, all of `height` x `width` pixels.

    The images lie in the shared memory one after the other, from byte `offset` on.
    """

    paths: Sequence[str]
    views: Sequence[View]
    height: int
    width: int
    draft: bool = True
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded images."""
        return len(self.paths) * self.height * self.width * 3

    def pieces(self, offset: int) -> "Iterator[Request]":
        """The batch in pieces, from byte `offset` on."""
        for start in range(0, len(self.paths), PIECE):
            part, place = slice(start, start + PIECE), offset + start * self.height * self.width * 3
            yield self._replace(paths=self.paths[part], views=self.views[part], offset=place)

    def images_in(self, memory: "memoryview | mmap.mmap | bytearray") -> np.ndarray:
        """The images in the memory: their bytes, (n, height, width, 3)."""
        flat = np.frombuffer(memory, np.uint8, self.nbytes, self.offset)
        return flat.reshape(len(self.paths), self.height, self.width, 3)

    def decode_into(self, memory: memoryview) -> None:
        """Decode the images into the memory."""
        for target, path, view in zip(self.images_in(memory), self.paths, self.views, strict=True):
            target[:] = decode(path, self.height, self.width, view, self.draft)


class DecodingPool:
    """Decodes batches in `workers` processes, started at first use, or in this process without any.

    A new pass ends the one before it.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        self._turn: Iterator[int] = iter(())
        self._sent: deque[Any] = deque()  # the workers of the calls under way; without any, the results
        self._memory: mmap.mmap | bytearray = bytearray()
        self._pass = 0

    def batches(self, requests: Iterable[Request], largest: int) -> Iterator[np.ndarray]:
        """Each batch in order as bytes (n, height, width, 3), overwritten when the next one is requested.

        The requests are of at least one image each, and are taken `AHEAD` of the batches; `largest` is the most bytes
        in one of them.

        Raises:
            UserError: an image cannot be read, or there is no room for the batches.
            RuntimeError: a worker died.
        """
        self._begin(AHEAD * largest)
        own, slots = self._pass, itertools.cycle(range(AHEAD))
        waiting: deque[tuple[Request, int]] = deque()
        upcoming = iter(requests)
        while True:
            while len(waiting) < (AHEAD if self.workers else 1) and (request := next(upcoming, None)) is not None:
                offset = next(slots) * largest
                pieces = list(request.pieces(offset))
                for piece in pieces:
                    self._send(Request.decode_into, piece)
                waiting.append((request._replace(offset=offset), len(pieces)))
            if not waiting:
                return
            request, count = waiting.popleft()
            for _ in range(count):
                self._receive()
            yield request.images_in(self._memory)
            assert own == self._pass, "another pass over the data has begun"

    def map(self, function: Callable[[Sequence[Any]], Any], items: Sequence[Any], size: int = 64) -> Iterator[Any]:
        """`function` of every `size` items, in order."""
        self._begin(0)
        for start in range(0, len(items), size):
            self._send(function, items[start : start + size])
            if len(self._sent) > 4 * self.workers:
                yield self._receive()
        while self._sent:
            yield self._receive()

    def close(self) -> None:
        """End the processes; the next use starts them again."""
        _end(self._connections, self._processes)
        self._sent.clear()
        self._memory = bytearray()

    def _begin(self, room: int) -> None:
        self._pass += 1
        if self.workers and not self._connections:
            self._start()
        while self._sent:  # left from an unfinished pass
            with suppress(UserError):
                self._receive()
        if room > len(self._memory):
            self._memory = bytearray(room) if not self.workers else self._share(room)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of this process's threads
        resource_tracker.ensure_running()  # the first process would start it, which lets signals through again
        for _ in range(self.workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), name="farkas_exp decoder", daemon=True)
            # a terminal or cluster signals all processes, and the trainer decides when to stop
            with held(), _without_main():
                process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._turn = itertools.cycle(range(self.workers))
        # before multiprocessing sends the workers the signal that they ignore, and waits for them
        Finalize(self, _end, (self._connections, self._processes), exitpriority=10)

    def _share(self, room: int) -> mmap.mmap:
        """Memory of at least `room` bytes shared with all workers: an unlinked file."""
        path, memory = _make_file(room)
        try:
            for _ in self._connections:
                self._send(_open, path)
            while self._sent:
                self._receive()
        finally:
            os.unlink(path)
        return memory

    def _send(self, function: Callable[..., Any], argument: Any) -> None:
        """Have the next worker call `function`; without workers, call it here."""
        if not self.workers:
            with memoryview(self._memory) as memory:
                self._sent.append(_quietly(function, argument, memory))
            return
        worker = next(self._turn)
        self._sent.append(worker)
        try:
            self._connections[worker].send((function, argument))
        except OSError:
            raise self._lost(worker) from None

    def _receive(self) -> Any:
        """The result of the earliest call."""
        earliest = self._sent.popleft()
        if not self.workers:
            return earliest
        worker: int = earliest
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
            f"a decoding process ended (exit code {code}); if it ran out of memory, choose fewer dataset.workers"
        )


def _work(connection: Connection) -> None:
    """The main loop of a worker: serve requests in order, until the trainer is gone."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # the other signals to stop are held back for good
        signal.signal(number, signal.SIG_IGN)
    memory = memoryview(b"")
    while True:
        try:
            function, argument = connection.recv()
        except (EOFError, OSError):
            return
        result = mistake = None
        try:
            if function is _open:
                memory = _open(argument)
            else:
                result = _quietly(function, argument, memory)
        except UserError as error:
            mistake = str(error)
        try:
            connection.send((result, mistake))
        except OSError:
            return


def _quietly(function: Callable[..., Any], argument: Any, memory: memoryview) -> Any:
    with quiet():
        return function(argument, memory) if isinstance(argument, Request) else function(argument)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep a process that is started from importing the main module, which may be a script that trains."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _make_file(room: int) -> tuple[str, mmap.mmap]:
    """A file of `room` bytes in memory, or else on disk, and its mapping."""
    folders = [folder for folder in ("/dev/shm", tempfile.gettempdir()) if os.path.isdir(folder)]
    for folder in folders:
        descriptor, path = tempfile.mkstemp(prefix="farkas_exp-", dir=folder)
        try:
            os.ftruncate(descriptor, room)
            if hasattr(os, "posix_fallocate"):  # else a worker would die by a signal when the disk is full
                os.posix_fallocate(descriptor, 0, room)
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
