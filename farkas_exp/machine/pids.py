"""Processes by their numbers, which the system gives away again."""

import errno
import os
from pathlib import Path


def born(pid: int) -> str | None:
    """When a living process was started, in the system's own count; None without such a process or such a count."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None


def lives(pid: int) -> bool:
    """Whether there is a process of this number, dead or alive."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True
