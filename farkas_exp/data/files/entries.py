"""The entries of a folder: read without waiting, and either used, counted or refused."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.terminal import shown

SUFFIXES = (".jpg", ".jpeg", ".png")
OTHER_PICTURES = (
    ".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".jpe", ".pgm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Formats that are not read, but counted among what is left out."""
SHOWN_KINDS = 6
"""The most kinds of left-out files that are named; the others are summed up."""


def entries(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder."""
    try:
        with os.scandir(folder) as found:
            yield from found
    except OSError as error:
        raise UserError(f"dataset.root: cannot read the folder '{shown(folder)}' ({error.strerror})") from None


def facts_of(entry: os.DirEntry[str]) -> os.stat_result:
    """The status of an entry, or of what it links to."""
    try:
        return entry.stat()
    except OSError as error:
        what = "a broken link" if entry.is_symlink() else f"not readable ({error.strerror})"
        raise UserError(f"dataset.root: '{shown(entry.path)}' is {what}; mend or remove it") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or links to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def kind_of(path: str | Path) -> str:
    """What is at a path, in words."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return "a broken link"
    kinds = ((stat.S_ISREG, "a file"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for test, name in kinds if test(mode)), "a device")


def is_picture(name: str) -> bool:
    """Whether a name has the suffix of a picture, read or not."""
    return name.lower().endswith(SUFFIXES + OTHER_PICTURES)


class LeftOut:
    """What a listing leaves out: how many of each kind, with an example."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, path: str, count: int = 1) -> None:
        """Count something, with an example."""
        before, example = self._kinds.get(kind, (0, path))
        self._kinds[kind] = before + count, min(example, path)

    def line(self) -> str | None:
        """One line for all of it, or None."""
        if not self._kinds:
            return None
        ordered = sorted(self._kinds.items(), key=lambda item: (-item[1][0], item[0]))
        parts = [
            f"{count:,} {kind} (such as '{shown(os.path.relpath(path, self._root))}')"
            for kind, (count, path) in ordered[:SHOWN_KINDS]
        ]
        rest = sum(count for _, (count, _) in ordered[SHOWN_KINDS:])
        return f"'{shown(self._root)}': left out {', '.join(parts)}{f', {rest:,} others' if rest else ''}"
