"""Heartbeats between the processes of a run: one that falls silent ends all.

Otherwise a process in a collective operation would wait for one that hangs, was stopped, or lost its network until the
operation's own timeout, on GPUs inside of a kernel that nothing interrupts. A thread sends the heartbeats through the
store by which the processes found each other.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from farkas_exp.machine.errors import message_of

BEAT_SECONDS = 5.0
"""The time between two heartbeats."""

SILENCE_SECONDS = 120.0
"""The silence after which a process counts as lost."""

GRACE_SECONDS = 30.0
"""The time a process has to leave by itself after losing another one; usually its connection has failed."""


class Watch:
    """Sends the heartbeats of this process and checks those of others, until it is stopped or one of them is lost.

    The first process watches all others, and these watch the first, which tells them of a loss. Only this thread uses
    the connection to the store, on which a missing key soon is an error. On a loss, `on_loss` gets a line.
    """

    def __init__(self, store: Any, rank: int, world_size: int, on_loss: Callable[[str], object]) -> None:
        self._store, self._rank, self._on_loss = store, rank, on_loss
        self._others = list(range(1, world_size)) if rank == 0 else [0]
        self._count = 0
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liveness", daemon=True)
        self._beat()

    def start(self) -> None:
        """Begin, once the watches of all processes have been made."""
        self._thread.start()

    def stop(self) -> None:
        """End silently."""
        self._ended.set()

    def _run(self) -> None:
        failing_since: float | None = None
        while not self._ended.wait(BEAT_SECONDS):
            try:
                self._beat()
                lost = self._lost()
                failing_since = None
            except Exception as error:  # noqa: BLE001 - the store cannot be reached, whatever the error
                failing_since = failing_since or time.monotonic()
                lost = f"the first process cannot be reached ({message_of(error, 80)})"
                if time.monotonic() - failing_since < GRACE_SECONDS:
                    continue
            if lost and not self._ended.is_set():
                self._on_loss(lost)
                return

    def _beat(self) -> None:
        self._count += 1
        self._store.set(f"alive/{self._rank}", str(self._count))

    def _lost(self) -> str | None:
        """The message on a lost process, or None."""
        now = time.monotonic()
        if self._rank and self._store.check(["lost"]):
            return self._store.get("lost").decode()
        signs = self._store.multi_get([f"alive/{other}" for other in self._others])
        for other, sign in zip(self._others, signs, strict=True):
            before, since = self._seen.get(other, (b"", now))
            self._seen[other] = (sign, now if sign != before else since)
            if now - self._seen[other][1] > SILENCE_SECONDS:
                line = f"process {other} has given no sign of life for {SILENCE_SECONDS:.0f} s"
                if self._rank == 0:
                    with suppress(Exception):
                        self._store.set("lost", line)
                return line
        return None
