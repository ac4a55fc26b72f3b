"""Processes by their numbers, which the system reuses."""

import errno
import os
from pathlib import Path


def born(pid: int) -> str | None:
    """The start time of a process in the system's ticks; None if the process is dead, or the time unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None


def lives(pid: int) -> bool:
    """Whether there is a process of this number, zombies included."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno == errno.EPERM
    return True


_COUNTS = Path("/proc/vmstat")


def ended_for_memory() -> int:
    """How many processes this machine has killed for want of memory since it was started; 0 where it does not say."""
    try:
        counts = dict(line.split() for line in _COUNTS.read_text().splitlines())
        return int(counts["oom_kill"])
    except (OSError, KeyError, ValueError):
        return 0
