"""W&B's own process, from outside: calls have a time limit, and a process that does not answer is killed.

W&B talks to a process of its own (`wandb-core`) through a socket and waits for it without limit, even when Python
exits. A stopped or killed one would hang the training, the command, or every later run of this process.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

EXIT_SECONDS = 60.0
"""The time W&B's process has to write and upload the rest when Python exits."""

_HUNG_UP = ("MailboxClosedError", "HandleAbandonedError")
"""The names of W&B's errors for a process that was gone, or went, when it was called."""

_TEARDOWN_SECONDS = 5.0
_ADDRESS = "WANDB_SERVICE"
"""The variable in which W&B keeps the address of its process."""
_PROGRAM = "wandb-core"


class Unanswered(Exception):  # noqa: N818 - a state of another process
    """A call of W&B did not return in time."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise its exception.

    Raises:
        Unanswered: it did not return; its thread stays until W&B's process ends (`forget`).
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it belongs
            answer.set_exception(error)

    threading.Thread(target=run, name="wandb-call", daemon=True).start()
    if not wait([answer], seconds).done:
        raise Unanswered(f"no answer in {seconds:.0f} s")
    error = answer.exception()
    if error is not None and not isinstance(error, Exception):
        raise RuntimeError(f"W&B ended itself: {error!r}")
    return answer.result()


def prepare() -> None:
    """Forget a process of W&B that died or was stopped, so that the next run starts a new one."""
    if is_known() and not _is_well():
        forget()


def is_known() -> bool:
    """Whether an earlier run of this process has left a process of W&B, dead or alive."""
    return "wandb" in sys.modules and _ADDRESS in os.environ


def hung_up(error: Exception) -> bool:
    """Whether an error says that W&B's process is gone: it may be one of W&B's own or the socket's."""
    return isinstance(error, ConnectionError) or type(error).__name__ in _HUNG_UP


def forget() -> None:
    """Kill W&B's process, so that the next run starts a new one. What it has written stays on the disk."""
    _kill()
    from wandb.sdk import wandb_setup

    with suppress(Exception):  # internals, which other versions may not have
        wandb_setup._singleton._connection._proc._process.wait(_TEARDOWN_SECONDS)  # type: ignore[union-attr]
    try:
        within(_TEARDOWN_SECONDS, lambda: sys.modules["wandb"].teardown(exit_code=1))
    except Exception:  # noqa: BLE001 - whatever W&B raises for its dead process
        wandb_setup._singleton = None
    os.environ.pop(_ADDRESS, None)


def _is_well() -> bool:
    """Whether a process of W&B runs here; True if that cannot be found out."""
    if not os.path.exists("/proc/self/stat"):
        return True
    states = _children().values()
    return bool(states) and not any(state in "Tt" for state in states)


def _children() -> dict[int, str]:
    """The living W&B processes that this one started, with the system's letters for their states (T: stopped)."""
    found = {}
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return found
    for pid in pids:
        with suppress(OSError, ValueError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            head, _, rest = file.read().rpartition(")")
            state, parent = rest.split()[:2]
            if head.partition("(")[2] == _PROGRAM and int(parent) == os.getpid() and state not in "ZX":
                found[pid] = state
    return found


def guard() -> None:
    """Limit how long Python's exit takes. Call this after each start of a run.

    W&B's exit hook waits until its process is gone. A hook registered later runs before it, and wakes a thread that
    kills the process if it does not end by itself.
    """
    if (closing := _guards.get(os.getpid())) is None:
        closing = _guards[os.getpid()] = threading.Event()
        threading.Thread(target=_end, args=(closing,), name="wandb-guard", daemon=True).start()
    atexit.unregister(closing.set)
    atexit.register(closing.set)


_guards: dict[int, threading.Event] = {}
"""What wakes the guard of a process, by its id: a forked one has no thread of its parent."""


def _end(closing: threading.Event) -> None:
    closing.wait()
    deadline = time.monotonic() + EXIT_SECONDS
    while _is_well() and time.monotonic() < deadline:
        time.sleep(0.2)
    _kill()


def _kill() -> None:
    for pid in _children():
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
