"""How far a sweep is: `7 of 48 runs done, 2 failed to train, ETA 3:05:00`."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from farkas_exp.launch.outcomes import OUTCOMES, PASSED_OVER
from farkas_exp.runs.console import duration


@dataclass
class Tally:
    """Counts the outcomes of a sweep of `total` runs (None: nobody knows how many).

    The estimate is made from the runs that ended here, and does not count those that were done before.
    """

    total: int | None = None
    clock: Callable[[], float] = time.monotonic
    count: Counter[str] = field(default_factory=Counter)
    before: int = 0
    passed_over: int = 0
    started: float = 0.0

    def begin(self, settled: Iterable[str]) -> str | None:
        """Count what needs no training, before the rest begins; return the line, None if nothing is left or told."""
        settled = list(settled)
        passed_over = settled.count(PASSED_OVER)
        self.passed_over += passed_over
        if self.total is not None:
            self.total -= passed_over
        self.count.update(status for status in settled if status != PASSED_OVER)
        self.before += len(settled) - passed_over
        self.started = self.started or self.clock()
        return self.line()

    def add(self, ended: Iterable[str], running: int = 0) -> str | None:
        """Count the outcomes of runs that ended; return the line, or None after the last.

        The runs that go on count as half done in the estimate.
        """
        self.count.update(ended)
        return self.line(running)

    def line(self, running: int = 0) -> str | None:
        """The line; None where the total is unknown, is 1, or has been reached."""
        done = self.count.total()
        if self.total is None or self.total < 2 or done >= self.total:
            return None
        told = [f"{self.count[status]} {m.told}" for status, m in OUTCOMES.items() if m.told and self.count[status]]
        trained = done - self.before + running / 2
        if done > self.before:
            left = self.total - done - running / 2
            told.append(f"ETA {duration((self.clock() - self.started) / trained * left)}")
        return ", ".join([f"{done} of {self.total} runs done", *told])
