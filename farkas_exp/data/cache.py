"""Files that a data set keeps below its folder, to be quicker the next time."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from farkas_exp.machine.files import replacing

CACHE_FOLDER = ".farkas_cache"


def write_cached(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """What `write` puts into a file, at `path` as a whole; nothing is left of it where that fails.

    A cache is a convenience: a folder that is read-only or full has none.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            write(file)
