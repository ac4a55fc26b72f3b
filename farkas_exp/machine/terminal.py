"""Foreign text for a terminal: without control characters, in one line."""

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that move the cursor, change the direction, break the line, or are no characters."""
NAMED = 10
"""The most unreadable things that are named; the others are counted."""


def printable(text: object) -> str:
    r"""The text in one line, with control characters escaped: a newline as `\n`, ESC as `\x1b`.

    For names, labels and errors from files or other programs: a terminal would obey their control characters.
    """
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one printable line, whatever its bytes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def unreadable_text(unreadable: Sequence[Any]) -> str:
    """One line that counts and names what is not among the runs, such as what cannot be read; empty if nothing."""
    if not unreadable:
        return ""
    names = [printable(each) for each in unreadable[:NAMED]]
    names += [f"{len(unreadable) - NAMED} more"] if len(unreadable) > NAMED else []
    return f"{len(unreadable)} not among the runs: {'; '.join(names)}"
