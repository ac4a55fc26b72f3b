"""The advisory lock of a run directory: held by the process that trains the run, and only as long as it lives.

It is the system's `flock`: it dies with its process, whatever kills it, and needs no clean-up. Linux carries it over
NFS (since 2.6.12) and over Lustre mounted with `flock`, so it also holds between the machines of a cluster. A file
system without locks is said once on standard error; there nothing keeps two commands from training the same run.
"""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

TRIES, PAUSE = 10, 0.02
"""A reader that looks at a lock holds it for a moment; whoever wants it tries that often, so many seconds apart."""


def take(path: Path) -> TextIO | None:
    """An open handle that holds the lock until it is closed, or None where another process holds it.

    The folder of the lock is made if it is not there.
    """
    for _ in range(TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
        except FileNotFoundError:
            continue  # its last holder took the unused folder away just now
        try:
            if _lock(handle, fcntl.LOCK_EX):
                if _is_at(path, handle):
                    handle.truncate(0)
                    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
                    handle.flush()
                    return handle
            else:
                time.sleep(PAUSE)
        except BaseException:
            handle.close()
            raise
        handle.close()
    return None


def holder(path: Path) -> str:
    """Who took the lock last, in words."""
    try:
        return path.read_text(encoding="utf-8").strip() or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as handle:  # not waiting for a pipe
            return not _lock(handle, fcntl.LOCK_SH, warn=False)
    except OSError:
        return False


def _lock(handle: TextIO, kind: int, warn: bool = True) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if warn:
            reason = f"runs_dir: this file system has no file locks ({error.strerror})"
            print(f"{reason}; do not give the same command twice at once", file=sys.stderr, flush=True)
    return True


def _is_at(path: Path, handle: TextIO) -> bool:
    """Whether the file behind `handle` is still the one at `path`: an unused run directory is taken away again."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
