"""Stop signals: a handler sets a mark, and the process checks it between two safe steps.

No handler raises: an exception in the middle of an import or a write would break what it interrupts. A command handles
signals from its first line on (`take_over`). While nothing is at stake (imports, composing), a signal ends the
process at once, with `STATUS`. While something is (`at_stake`), the process goes on to its next safe step, sees the
mark (`StopRequest.requested`) and returns normally.

A thread waits for the signals, so that a main thread that hangs in a system call or in C++ is ended, too: at once, or
after `PATIENCE` seconds if something is at stake.

A Python program that only uses the package is never ended: `handled` sets the mark within its block, and then restores
the handlers.
"""

import atexit
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, NoReturn

from farkas_exp.machine.errors import unknown

STATUS = 75
"""The exit status of a stopped process, the system's EX_TEMPFAIL: give the same command again."""

PATIENCE = 300.0
"""The seconds that a process has to reach its next safe step."""

HUMAN_SECONDS = 0.5
"""A second SIGINT within this time is an echo of the first: a launcher repeats what the terminal sends to all."""

LAST_WORDS_SECONDS = 15.0
"""The limit of a process's last words; its standard output or error may be a pipe that nobody reads."""

_VARIABLE = "SUBMITIT_PREEMPT_SIGNAL"


def _preemption() -> signal.Signals:
    """SIGUSR2, or the signal in submitit's variable; `check_environment` refuses a wrong name."""
    name = os.environ.get(_VARIABLE, "USR2").removeprefix("SIG")
    return signal.Signals[f"SIG{name}"] if name in _names() else signal.SIGUSR2


def _names() -> list[str]:
    """The names of the signals that can be handled, without SIG."""
    return [each.name[3:] for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)]


PREEMPTION = _preemption()
"""What Slurm sends before it preempts a job or its time is up."""

STOP_SIGNALS = tuple(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PREEMPTION)))


def check_environment() -> None:
    """Check the name of the preemption signal."""
    name = os.environ.get(_VARIABLE)
    if name is not None and name not in _names():
        raise unknown(_VARIABLE, name, _names())


class _Process:
    """The state of stopping in this process: the mark `asked`, and what is at stake."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken_over = False
        self.asked: str | None = None
        self.seen = False  # whether the main thread has seen the mark and is leaving
        self.first_interrupt = 0.0
        self.stakes: dict[int, int] = {}  # by thread: its open blocks of `at_stake`
        self.patient = True  # whether PATIENCE applies
        self.leaving: int | None = None  # the thread that ends the process
        self.words: list[Callable[[], object]] = []

    def ask(self, name: str) -> None:
        """Set the mark. Called by handlers: takes no lock, never raises."""
        if self.asked is None:
            self.asked = name

    def wait_for_another(self) -> None:
        """Wait for the end if another thread ends the process; `changed` is held."""
        while self.leaving not in (None, threading.get_ident()):
            self.changed.wait()

    def wait_for_the_end(self) -> None:
        """Wait for the end if the process is now to be ended; `changed` is held."""
        while self.taken_over and self.asked and self.is_free() and self.leaving != threading.get_ident():
            self.changed.wait()

    def is_free(self) -> bool:
        """Whether the process may end at once."""
        return not self.seen and not any(self.stakes.values())


_process = _Process()


class StopRequest:
    """A `with` block in which a stop signal sets a mark, and the process does not end.

    Args:
        patience: whether `PATIENCE` limits the time from the signal to the end; without it, the block must end by
            itself.
    """

    def __init__(self, *, patience: bool = True) -> None:
        self._patience = patience
        self._blocks = ExitStack()

    @property
    def requested(self) -> bool:
        """Whether a signal has asked for a stop. Whoever sees True must leave, with `STATUS`."""
        if _process.asked is None:
            return False
        _process.seen = True
        return True

    def wait(self, seconds: float) -> bool:
        """Wait until a stop is requested, at most `seconds`; return whether one is."""
        deadline = time.monotonic() + seconds
        while not self.requested and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.requested

    @property
    def signal_name(self) -> str | None:
        """The signal that asked for the stop, or None."""
        return _process.asked if self.requested else None

    def __enter__(self) -> "StopRequest":
        if not self._patience:
            _process.patient = False
        self._blocks.enter_context(handled())
        self._blocks.enter_context(at_stake())
        return self

    def __exit__(self, *exception: Any) -> None:
        self._blocks.close()
        if not self._patience:
            _process.patient = True


@contextmanager
def at_stake() -> Iterator[None]:
    """Within the block a signal does not end the process; keep it short, or check `StopRequest.requested`."""
    own = threading.get_ident()
    with _process.changed:
        _process.wait_for_another()
        _process.stakes[own] = _process.stakes.get(own, 0) + 1
    try:
        yield
    finally:
        with _process.changed:
            _process.stakes[own] -= 1
            _process.changed.notify_all()
            _process.wait_for_the_end()


@contextmanager
def free_to_leave() -> Iterator[None]:
    """Within the block nothing of this thread is at stake: for a long part of a job that writes nothing."""
    own = threading.get_ident()
    with _process.changed:
        before = _process.stakes.pop(own, 0)
        _process.changed.notify_all()
        _process.wait_for_the_end()
    try:
        yield
    finally:
        with _process.changed:
            _process.wait_for_another()
            _process.stakes[own] = before


@contextmanager
def last_words(function: Callable[[], object]) -> Iterator[None]:
    """Call `function` if a signal ends the process within the block; functions of inner blocks are called first.

    Another thread calls it, while this one may be anywhere in the block but in `at_stake`.
    """
    _process.words.append(function)
    try:
        yield
    finally:
        with at_stake():
            _process.words.remove(function)


@contextmanager
def handled() -> Iterator[None]:
    """Within the block stop signals set a mark. Blocks nest; the outermost one restores the handlers.

    A second SIGINT goes to the earlier handler. The block does nothing in a process that has called `take_over`, and
    outside of the main thread, where handlers cannot be set.
    """
    if _process.taken_over or threading.current_thread() is not threading.main_thread() or _handles():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        _process.ask(signal.Signals(number).name)
        if number == signal.SIGINT and number in before:
            signal.signal(number, before[signal.SIGINT])

    note.leaves_a_mark = True  # type: ignore[attr-defined]
    _process.asked, _process.seen = None, False
    for number in _signals():
        before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _process.asked, _process.seen = None, False


def _handles() -> bool:
    return getattr(signal.getsignal(signal.SIGTERM), "leaves_a_mark", False)


def _signals() -> list[signal.Signals]:
    """The signals to handle: not SIGHUP under `nohup`."""
    return [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def take_over() -> None:
    """Handle the stop signals of this process until its end. Call this first in a command, in the main thread.

    Signals held back by `held` arrive now.
    """
    if _process.taken_over:
        return
    _process.taken_over = True
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reads,), name="signals", daemon=True).start()
    for number in _signals():
        signal.signal(number, _mark)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_let_go)
    atexit.register(_ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def command(module: str) -> int:
    """Call `take_over`, then import the module and run its `main`; return its exit status."""
    take_over()
    return importlib.import_module(module).main()


@contextmanager
def held() -> Iterator[None]:
    """Hold stop signals back within the block, and in each process started in it until that calls `take_over`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore() -> None:
    """Ignore stop signals while the interpreter ends: without its handlers, one would kill the process."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _mark(number: int, frame: FrameType | None) -> None:
    _process.ask(signal.Signals(number).name)


_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _let_go() -> None:
    """Reset a forked child, which has no listening thread and must not write to its parent's pipe."""
    global _process
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _mark:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _process = _Process()
    _after_fork()


def _listen(pipe: int) -> None:
    """The thread that sees every signal, even while the main thread is in C code."""
    leaver: threading.Thread | None = None
    while True:
        for number in os.read(pipe, 64):
            if number not in STOP_SIGNALS:
                continue
            _process.ask(signal.Signals(number).name)
            if number == signal.SIGINT and _is_second_interrupt():
                leave("stopped at once, as asked twice; a run goes on from its last checkpoint")
            if leaver is None:
                leaver = threading.Thread(target=_leave_when_free, name="leaver", daemon=True)
                leaver.start()


def _is_second_interrupt() -> bool:
    now = time.monotonic()
    if not _process.first_interrupt:
        _process.first_interrupt = now
    return now - _process.first_interrupt > HUMAN_SECONDS


def _leave_when_free() -> None:
    """End the process when nothing is at stake, or when `PATIENCE` is over."""
    deadline = time.monotonic() + PATIENCE
    with _process.changed:
        while not _process.is_free():
            if time.monotonic() > deadline:
                if _process.patient:
                    break
                deadline = time.monotonic() + PATIENCE
            _process.changed.wait(1.0)
        _process.leaving = threading.get_ident()
        timely = _process.is_free()
    if not timely:
        leave(f"no safe step within {PATIENCE:.0f} s of {_process.asked}; a run goes on from its last checkpoint")
    _end(_speak)


def leave(line: str) -> NoReturn:
    """End the process with `STATUS`, from any thread and whatever its main thread hangs in; `line` says why."""
    _end(partial(_say, line))


def _end(speak: Callable[[], None]) -> NoReturn:
    words = threading.Thread(target=speak, daemon=True)
    words.start()
    words.join(LAST_WORDS_SECONDS)
    os._exit(STATUS)


def _speak() -> None:
    _process.leaving = threading.get_ident()
    for function in reversed(_process.words):
        with suppress(Exception):
            function()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def _say(line: str) -> None:
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())
