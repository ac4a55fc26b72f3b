"""Arrays that a data set keeps below its folder, to be quicker the next time.

A cache is used only where it is this user's own and nobody else may write it, its contents are undamaged (checksums)
and have the expected type and shape, and it was made of the very same files; otherwise it is as good as none.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np

from farkas_exp.machine.files import replacing

CACHE_FOLDER = ".farkas_cache"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def read_cached(path: Path, key: str, dtype: type, shape: tuple[int | None, ...]) -> np.ndarray | None:
    """The array that `write_cached` kept at `path` for `key`, or None.

    Args:
        path: the file.
        key: of what the array was made.
        dtype: the array's type.
        shape: its shape; None for a side of any length from 1 on.
    """
    with contextlib.suppress(Exception):  # whatever is wrong with it: making the array again mends it
        if not _is_own(os.lstat(path.parent), stat.S_ISDIR):
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not _is_own(os.fstat(descriptor), stat.S_ISREG):
                return None
            with np.load(file, allow_pickle=False) as stored:
                if str(stored["key"]) != key:
                    return None
                array = stored["array"]
        fits = array.ndim == len(shape) and all(w is None or n == w for n, w in zip(array.shape, shape, strict=True))
        return array if fits and array.dtype == dtype and array.size else None
    return None


def write_cached(path: Path, key: str, array: np.ndarray) -> None:
    """Keep an array at `path`, whole or not at all.

    A cache is a convenience: a folder that is read-only, full or somebody else's has none.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not _is_own(os.lstat(path.parent), stat.S_ISDIR):
            return
        with replacing(path) as file:
            os.fchmod(file.fileno(), 0o600)
            np.savez(file, key=np.array(key), array=array)


def _is_own(facts: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether a file or folder is of the right kind, this user's own, and nobody else's to write."""
    return is_kind(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & _OTHERS_MAY_WRITE
