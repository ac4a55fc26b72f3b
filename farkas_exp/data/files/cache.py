"""Arrays that a data set keeps below its folder, to load faster the next time.

A cache is used only if nobody but this user may write it, its checksums, type and shape are right, and it was made of
the very same files.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from farkas_exp.machine.files import replacing, without_links
from farkas_exp.machine.home import why_unsafe
from farkas_exp.machine.output import warn

CACHE_FOLDER = ".farkas_cache"


def read_cached(path: Path, key: str, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray | None:
    """The array that `write_cached` kept at `path` for `key`, or None, also if it has another type or shape.

    A None in the shape is a side of any length above 0.
    """
    with contextlib.suppress(Exception):  # whatever is wrong, making the array again mends it
        if why_unsafe(os.lstat(path.parent), folder=True):
            return None
        with open(path, "rb", opener=without_links) as file:
            if why_unsafe(os.fstat(file.fileno())):
                return None
            with np.load(file, allow_pickle=False) as stored:
                if str(stored["key"]) != key:
                    return None
                array = stored["array"]
        fits = array.ndim == len(shape) and all(w is None or n == w for n, w in zip(array.shape, shape, strict=True))
        return array if fits and array.dtype == dtype and array.size else None
    return None


def write_cached(path: Path, key: str, array: np.ndarray) -> None:
    """Keep an array at `path`, whole or not at all; none in a folder that is read-only, full or another user's."""
    with contextlib.suppress(OSError):
        if not _made_safe(path.parent):
            return
        with replacing(path) as file:
            os.fchmod(file.fileno(), 0o600)
            np.savez(file, key=np.array(key), array=array)


@contextlib.contextmanager
def made_by_one(path: Path, what: str) -> Iterator[None]:
    """Let one process at a time make a cache at `path`; the others wait, and find it. Without locks all make it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            if _made_safe(path.parent):
                folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                stack.callback(os.close, folder)
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    warn(f"{what}: waiting for another process that decodes the same images")
                    fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _made_safe(folder: Path) -> bool:
    """Make the folder of a cache if it is missing; whether nobody but this user may write it."""
    folder.mkdir(mode=0o700, exist_ok=True)
    return not why_unsafe(os.lstat(folder), folder=True)
