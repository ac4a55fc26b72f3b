"""Being asked to stop: a signal leaves a mark, and the process looks at it between two safe steps.

No handler raises: an exception in the middle of an import or of a write would break what it interrupts. A command
takes the signals over in its first line (`take_over`). From then on a signal ends the process at once, with
`STATUS`, where nothing is at stake: imports, composing, building. Where something is (`at_stake`), the process goes on
to its next safe step, sees the mark (`StopRequest.requested`) and leaves by its own control flow.

A thread waits for the signals, so a main thread that hangs in a system call or in C++ is ended as well: at once where
nothing is at stake, after `PATIENCE` seconds elsewhere.

In a Python program that only uses the package, `handled` sets the mark in its block and then gives the handlers back;
nothing ever leaves the program.
"""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from farkas_exp.machine.errors import unknown

STATUS = 75
"""The exit status of a process that was asked to stop; the system's EX_TEMPFAIL: try the same command again."""

PATIENCE = 300.0
"""So many seconds a process that was asked to stop may take to its next safe step."""

HUMAN_SECONDS = 0.5
"""A second SIGINT within this time is an echo of the first (a launcher passes on what the terminal has sent to all)."""

LAST_WORDS_SECONDS = 15.0
"""So long the last words of a process may take; its standard output may be a pipe that nobody reads."""

_VARIABLE = "SUBMITIT_PREEMPT_SIGNAL"


def _preemption() -> signal.Signals:
    """SIGUSR2, or the one that submitit's variable names; see `check_environment` for a wrong name."""
    name = os.environ.get(_VARIABLE, "USR2").removeprefix("SIG")
    return signal.Signals[f"SIG{name}"] if name in _names() else signal.SIGUSR2


def _names() -> list[str]:
    """The signals that can be handled, without SIG."""
    return [each.name[3:] for each in signal.Signals if each not in (signal.SIGKILL, signal.SIGSTOP)]


PREEMPTION = _preemption()
"""What Slurm sends before it takes a job's place away or its time is up."""

STOP_SIGNALS = tuple(dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, PREEMPTION)))


def check_environment() -> None:
    """Refuse a name for the preemption signal that submitit would not understand.

    Raises:
        UserError: such a name.
    """
    name = os.environ.get(_VARIABLE)
    if name is not None and name not in _names():
        raise unknown(_VARIABLE, name, _names())


class _Process:
    """What this process knows about stopping; the mark `asked`, and what is at stake."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.taken_over = False
        self.asked: str | None = None
        self.seen = False  # the main thread has seen the mark and is on its way out
        self.first_interrupt = 0.0
        self.stakes: dict[int, int] = {}  # by thread: in how many blocks of `at_stake` it is
        self.patient = True  # whether PATIENCE ends
        self.leaving: int | None = None  # the thread that ends the process
        self.words: list[Callable[[], object]] = []

    def ask(self, name: str) -> None:
        """Leave the mark. Called by handlers: takes no lock, never raises."""
        if self.asked is None:
            self.asked = name

    def wait_for_the_end(self) -> None:
        """Wait to be ended, if that is what the mark means now; `changed` is held."""
        while self.taken_over and self.asked and self.is_free() and self.leaving != threading.get_ident():
            self.changed.wait()

    def is_free(self) -> bool:
        """Whether the process may end at once."""
        return not self.seen and not any(self.stakes.values())


_process = _Process()


def asked() -> str | None:
    """The name of the first stop signal, or None."""
    return _process.asked


class StopRequest:
    """Within its `with` block a stop signal leaves a mark, and the process does not end before the block does.

    Args:
        patience: whether `PATIENCE` limits the time from the signal to the end of the process; without it, whoever
            looks at the request sees to that.
    """

    def __init__(self, *, patience: bool = True) -> None:
        self._patience = patience
        self._blocks: list[Any] = []

    @property
    def requested(self) -> bool:
        """Whether a signal has asked for a stop. Who has seen a True leaves by itself, with `STATUS`."""
        if _process.asked is None:
            return False
        _process.seen = True
        return True

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until a stop is asked for; whether it is."""
        deadline = time.monotonic() + seconds
        while not self.requested and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))
        return self.requested

    @property
    def signal_name(self) -> str | None:
        """The signal that has asked for the stop, or None."""
        return _process.asked if self.requested else None

    def __enter__(self) -> "StopRequest":
        if not self._patience:
            _process.patient = False
        self._blocks = [handled(), at_stake()]
        for block in self._blocks:
            block.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        while self._blocks:
            self._blocks.pop().__exit__(None, None, None)
        if not self._patience:
            _process.patient = True


@contextmanager
def at_stake() -> Iterator[None]:
    """Within the block the process does not leave at once; the block is short, or looks at `StopRequest.requested`."""
    own = threading.get_ident()
    with _process.changed:
        while _process.leaving not in (None, own):
            _process.changed.wait()
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
    """Within the block nothing of this thread is at stake after all: a long stretch of a job that writes nothing."""
    own = threading.get_ident()
    with _process.changed:
        before = _process.stakes.pop(own, 0)
        _process.changed.notify_all()
        _process.wait_for_the_end()
    try:
        yield
    finally:
        with _process.changed:
            while _process.leaving not in (None, own):
                _process.changed.wait()
            _process.stakes[own] = before


@contextmanager
def last_words(function: Callable[[], object]) -> Iterator[None]:
    """Call `function` if the process leaves at once from within the block; the innermost block's first.

    It is called by another thread, while this one is anywhere in the block but not in `at_stake`.
    """
    _process.words.append(function)
    try:
        yield
    finally:
        with at_stake():
            _process.words.remove(function)


@contextmanager
def handled() -> Iterator[None]:
    """Within the block stop signals leave a mark. Blocks nest; the outermost one gives the handlers back.

    After the first SIGINT the second one is for the handler that was there before. In a process that has taken the
    signals over, and outside of the main thread, where handlers cannot be set, the block does nothing.
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
    """The signals to handle: `nohup` keeps its effect."""
    return [n for n in STOP_SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]


def take_over() -> None:
    """Handle the stop signals of this process until its end. For a command's first line, in the main thread.

    Signals that were held back by `held` come through now.
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def command(module: str) -> int:
    """Take the stop signals over, and only then import the module and run its `main`; return its exit status."""
    take_over()
    return importlib.import_module(module).main()


@contextmanager
def held() -> Iterator[None]:
    """Within the block stop signals wait, in this thread and for good in each process that is started in it.

    Such a process never sees one unless it calls `take_over`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _mark(number: int, frame: FrameType | None) -> None:
    _process.ask(signal.Signals(number).name)


_forking = threading.local()


def _before_fork() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _let_go() -> None:
    """In a forked child: it has no thread that listens, and its parent's pipe is not its own."""
    global _process
    signal.set_wakeup_fd(-1)
    for number in STOP_SIGNALS:
        if signal.getsignal(number) is _mark:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _process = _Process()
    _after_fork()


def _listen(pipe: int) -> None:
    """The thread that sees every signal, also while the main thread is in C code."""
    leaver: threading.Thread | None = None
    while True:
        for number in os.read(pipe, 64):
            if number not in STOP_SIGNALS:
                continue
            _process.ask(signal.Signals(number).name)
            if number == signal.SIGINT and _is_second_interrupt():
                _say("stopped at once, as asked twice; a run goes on from its last checkpoint")
                os._exit(STATUS)
            if leaver is None:
                leaver = threading.Thread(target=_leave_when_free, name="leaver", daemon=True)
                leaver.start()


def _is_second_interrupt() -> bool:
    now = time.monotonic()
    if not _process.first_interrupt:
        _process.first_interrupt = now
    return now - _process.first_interrupt > HUMAN_SECONDS


def _leave_when_free() -> None:
    """End the process as soon as nothing is at stake, or the main thread has taken longer than it may."""
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
        _say(f"no safe step within {PATIENCE:.0f} s of {_process.asked}; a run goes on from its last checkpoint")
        os._exit(STATUS)
    words = threading.Thread(target=_speak, daemon=True)
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
