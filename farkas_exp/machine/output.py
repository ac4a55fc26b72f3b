"""Words for people on standard output and error, whose trouble is never the trouble of what they report on.

A closed pipe (`| head`), a full disk behind `>`, a terminal that knows no `±`, or no standard output at all: the words
are lost, the runs and the exit status are not.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


def say(text: str = "", stream: TextIO | None = None) -> None:
    """Print a line on standard output (or `stream`), if that is possible; raise nothing."""
    target = sys.stdout if stream is None else stream
    if target is None:
        return
    with suppress(OSError, ValueError):
        try:
            target.write(text + "\n")
        except UnicodeEncodeError:
            encoding = target.encoding or "ascii"
            target.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        target.flush()


def warn(text: str) -> None:
    """Print a line on standard error, if that is possible."""
    if sys.stderr is not None:
        say(text, sys.stderr)


@contextmanager
def patient() -> Iterator[None]:
    """Within the block nothing that is printed raises, whoever prints it; for the `main` of a command."""
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
    """Put /dev/null where a shell has closed standard input, output or error: no file of ours may take its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


class _Patient:
    """A stream that loses what cannot be written. Everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            return self.write(text.encode(encoding, "replace").decode(encoding))
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
        """Send the rest to /dev/null; Python would otherwise try again at its end, and change the exit status."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()
