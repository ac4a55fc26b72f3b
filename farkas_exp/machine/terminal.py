"""Foreign text for a terminal: without control characters, in one line."""

import os
import unicodedata


def printable(text: object) -> str:
    r"""The text in one line, with control characters escaped: a newline as `\n`, ESC as `\x1b`.

    For names, labels and errors from files or other programs: a terminal would obey their control characters.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        # a space of any width moves no cursor, turns no direction and breaks no line
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one printable line, whatever its bytes."""
    return printable(os.fsencode(path).decode("utf-8", "backslashreplace"))
