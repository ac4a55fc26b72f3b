"""The progress of a run: a live line on a terminal, a line for some epochs elsewhere, and always a log file."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from farkas_exp.machine.files import appending

_REFRESH_SECONDS = 0.1
"""The least time between two redraws of the live line: `step` may be called thousands of times a second."""

_BAR = 12
"""The characters of the bar."""


class Progress:
    """Shows how far a run of so many epochs is, of which `done` were finished before this process began.

    The mode `live` keeps one line up to date, `plain` prints a line for some of the epochs, `none` prints nothing, and
    `auto` is `live` on a terminal and `plain` elsewhere. A log file gets a line per epoch in every mode. Output goes to
    standard output unless a `stream` is given; `clock` counts seconds, for tests.
    """

    def __init__(
        self,
        mode: str,
        title: str,
        epochs: int,
        log_path: Path | None,
        *,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title, self.epochs, self._clock = title, epochs, clock
        self._stream = sys.stdout if stream is None else stream
        terminal = bool(getattr(self._stream, "isatty", lambda: False)())
        self._mode = ("live" if terminal else "plain") if mode == "auto" else mode
        self._log = appending(log_path) if log_path else None
        self._done, self._fraction = done, 0.0
        self._row: Mapping[str, Any] = {}
        self._started: float | None = None  # the first step, before which all is set-up: compiling, recording, W&B
        self._start_done = float(done)
        self._drawn = -math.inf
        self._live: Any = None
        if self._mode == "live":
            self._open_live()

    def step(self, done: int, total: int) -> None:
        """Report step `done` of `total` of the current epoch. Costs nothing unless a redraw is due."""
        if self._started is None:
            self._started, self._start_done = self._clock(), self._done + done / max(total, 1)
        if self._live is None:
            return
        now = self._clock()
        if now - self._drawn >= _REFRESH_SECONDS:
            self._fraction, self._drawn = done / max(total, 1), now
            self._draw()

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Report a finished epoch by its row of metrics (1-based `epoch`)."""
        self._row, self._done, self._fraction = row, int(row["epoch"]), 0.0
        line = epoch_line(row, self.epochs, self.eta_seconds())
        self._write_log(line)
        if self._live is not None:
            self._drawn = self._clock()
            self._draw()
        elif self._mode == "plain" and is_shown(self._done, self.epochs):
            self._print(f"[{self.title}] {line}")

    def message(self, line: str) -> None:
        """Show and log a line."""
        self._write_log(line)
        if self._live is not None:
            self._guard(lambda: self._live.console.print(f"[{self.title}] {line}", markup=False, highlight=False))
        elif self._mode == "plain":
            self._print(f"[{self.title}] {line}")

    def warning(self, line: str) -> None:
        """Write a line to standard error and the log, whatever the mode."""
        self._write_log(f"warning: {line}")
        with suppress(OSError, ValueError):
            print(f"warning: [{self.title}] {line}", file=sys.stderr, flush=True)

    def close(self, line: str | None = None) -> None:
        """End the display with a last `line`; a second call does nothing."""
        live, self._live = self._live, None
        if live is not None:
            self._guard(live.stop)
        if line is not None:
            if live is not None or self._mode == "plain":
                self._print(f"[{self.title}] {line}")
            self._write_log(line)
        if self._log is not None:
            with suppress(OSError):
                self._log.close()
            self._log = None

    def eta_seconds(self) -> float | None:
        """Seconds until the last epoch, at the mean speed of this process since its first step; None before it."""
        progress = self._done + self._fraction - self._start_done
        if self._started is None or progress <= 0:
            return None
        return (self._clock() - self._started) / progress * (self.epochs - self._done - self._fraction)

    def _open_live(self) -> None:
        from rich.console import Console
        from rich.live import Live

        class PatientConsole(Console):
            def on_broken_pipe(self) -> None:
                raise  # called while the error is handled; rich would end the process

        console = PatientConsole(file=self._stream, force_terminal=True)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._guard(self._live.start)
        self._draw()

    def _draw(self) -> None:
        from rich.text import Text

        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(self.title + " ", style="bold")
        filled = round(min(max((self._done + self._fraction) / self.epochs, 0.0), 1.0) * _BAR)
        text.append("━" * filled, "cyan").append("━" * (_BAR - filled), "bright_black")
        current = min(self._done + 1, self.epochs)
        text.append(f" epoch {current}/{self.epochs}")
        eta = self.eta_seconds()
        if eta is not None:  # before the figures: a narrow terminal cuts the end off
            text.append(f"  ETA {duration(eta)}", style="green")
        text.append(f"  {_figures(self._row)}")
        self._guard(lambda: self._live.update(text, refresh=True))

    def _print(self, line: str) -> None:
        self._guard(lambda: print(line, file=self._stream, flush=True))

    def _guard(self, show: Callable[[], object]) -> None:
        """Call `show`; a terminal that is gone (a closed pipe, a lost connection) never ends the training."""
        try:
            show()
        except (OSError, ValueError):
            live, self._live, self._mode = self._live, None, "none"
            if live is not None:
                with suppress(OSError, ValueError):
                    live.stop()  # gives standard output and error back

    def _write_log(self, line: str) -> None:
        if self._log is not None:
            with suppress(OSError):  # a full disk: the metrics file reports it
                self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
                self._log.flush()


def epoch_line(row: Mapping[str, Any], epochs: int, eta: float | None = None) -> str:
    """The line of a finished epoch."""
    parts = [f"epoch {row['epoch']}/{epochs}", _figures(row)]
    if row.get("lr") is not None:
        parts.insert(1, f"lr {row['lr']:g}")
    if row.get("epoch_seconds") is not None:
        parts.append(f"{row['epoch_seconds']:.3g} s")
    if eta is not None and int(row["epoch"]) < epochs:
        parts.append(f"ETA {duration(eta)}")
    return "  ".join(part for part in parts if part)


def is_shown(epoch: int, epochs: int) -> bool:
    """Whether plain output shows `epoch` (1-based): the first three, about twenty more, and the last."""
    return epoch <= 3 or epoch == epochs or epoch % math.ceil(epochs / 20) == 0


def duration(seconds: float) -> str:
    """`seconds` as 1:02:03, 2:03 or 0:03."""
    if not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _figures(row: Mapping[str, Any]) -> str:
    """The losses, errors and speed in a row, without those that are missing."""
    parts = []
    for part in ("train", "test", "validation"):
        for key, value in row.items():
            if key.startswith(f"{part}_"):
                name = "error" if key == "train_error" else key.replace("_", " ")
                parts.append(f"{name} {_number(key, value)}")
    if row.get("images_per_second") is not None:
        parts.append(f"{row['images_per_second']:,.0f} images/s")
    return "  ".join(parts)


def _number(key: str, value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    is_error = key.partition("_")[2].startswith("error")
    return f"{value:.2f} %" if is_error else f"{value:.4f}"
