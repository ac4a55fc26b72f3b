"""Being asked to stop: a signal sets a flag, the trainer looks at it between two steps."""

import os
import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Within its `with` block a signal asks for a stop; after the block it goes on to whom it was meant for.

    - SIGINT (Ctrl-C) asks for a stop; a second one stops at once, without a checkpoint.
    - SIGTERM asks for a stop, unless somebody else handles it: under submitit it is not the last word.
    - SIGUSR2, where somebody handles it, is Slurm's announcement of preemption or of the time limit (submitit). The
      trainer first writes its checkpoint; then the signal goes on to submitit, which requeues the job and ends the
      process. A second one before that changes nothing.

    Outside of the main thread signals cannot be handled; then nobody asks.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has asked for a stop."""
        return self.signal_name is not None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in self._wanted():
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self.signal_name == signal.SIGUSR2.name:
            os.kill(os.getpid(), signal.SIGUSR2)

    @staticmethod
    def _wanted() -> list[signal.Signals]:
        under_submitit = callable(signal.getsignal(signal.SIGUSR2))
        return [signal.SIGINT, signal.SIGUSR2 if under_submitit else signal.SIGTERM]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
