"""Print for people, and never fail for it.

A closed pipe (`| head`), a full disk behind `>`, a terminal without `±`, or no standard output at all: the words are
lost, but neither runs nor exit status.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line on standard output (or `stream`) if possible; never raise."""
    target = sys.stdout if stream is None else stream
    if target is None:
        return
    with suppress(OSError, ValueError):
        try:
            target.write(text + "\n")
        except UnicodeEncodeError:
            target.write(_encodable(text, target) + "\n")
        target.flush()


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)


def warn(text: str) -> None:
    """Print a line on standard error if possible."""
    if sys.stderr is not None:
        say(text, sys.stderr)


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count} {noun}{'s' * (count != 1)}"


@contextmanager
def patient() -> Iterator[None]:
    """Keep printing from raising within the block, wherever it happens; for the `main` of a command."""
    _fill_standard_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Patient(stream) if stream is not None else None for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before


def _fill_standard_descriptors() -> None:
    """Open /dev/null for closed standard streams, whose numbers a file of ours would else take."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


class _Patient:
    """A stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self.write(_encodable(text, self._stream))
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Send the rest to /dev/null, or Python would try again at its exit and change the exit status."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()
