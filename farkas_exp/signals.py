"""Being asked to stop: a signal sets a flag, the trainer looks at it between two steps."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PREEMPTION = signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"]
"""What Slurm sends before it takes a job's place away or its time is up; submitit's variable names another one."""

STOP_SIGNALS = tuple(dict.fromkeys((signal.SIGINT, signal.SIGTERM, PREEMPTION)))


class StopRequest:
    """Within its `with` block the `STOP_SIGNALS` ask for a stop; a second SIGINT stops at once, without a checkpoint.

    Blocks nest: a signal in the inner one asks the outer one as well, and one that came before the inner block began
    has asked it already. Outside of the main thread signals cannot be handled; then nobody asks.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._outer: StopRequest | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has asked for a stop."""
        return self.signal_name is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
            self._outer = outer if isinstance(outer, StopRequest) else None
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
            if self._outer is not None:
                self.signal_name = self._outer.signal_name
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self._outer = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._ask(signal.Signals(number).name)

    def _ask(self, name: str) -> None:
        self.signal_name = name
        if self._outer is not None:
            self._outer._ask(name)


@contextmanager
def leaving(status: int) -> Iterator[None]:
    """Within the block SIGTERM and the preemption signal leave the process with `status` where no run is training.

    SIGINT raises KeyboardInterrupt, as ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(status)

    before = {number: signal.signal(number, leave) for number in STOP_SIGNALS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
