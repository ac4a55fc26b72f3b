"""The lock of a folder: held by one process, as long as it lives and the folder stays in place.

It has two parts. The first is the system's `flock`, which ends with its process; Linux supports it over NFS (since
2.6.12) and over Lustre mounted with `flock`. The second is a claim: a file made with `O_EXCL` that names the holder and
is touched every `BEAT_SECONDS`. Where `flock` works, a claim without it is void, so nobody waits for a dead process.
Where it does not, the claim decides: that of a dead process of this machine is void at once, that of another machine
after `STALE_SECONDS` without a beat.

A holder checks `is_own` before each write: the folder may have been moved or deleted, and a process that was suspended
for minutes may have lost its claim.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from farkas_exp.machine.files import without_links
from farkas_exp.machine.pids import born, lives

TRIES, PAUSE = 10, 0.02
"""Tries to take a lock, and seconds between them: a reader that checks it holds it for a moment."""

BEAT_SECONDS, STALE_SECONDS = 20.0, 300.0
"""The time between two renewals of a claim, and after which another machine's claim is void without one."""

_NO_LOCKS = "runs_dir: this file system has no file locks here ({}); a claim file that is kept alive replaces them"
_said: set[str] = set()


class Lock:
    """A lock that this process holds until it is closed. Made by `take`."""

    def __init__(self, path: Path, handle: TextIO, claim: int) -> None:
        self.path, self._handle, self._claim = path, handle, claim
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def is_own(self) -> bool:
        """Whether the files at the lock's path are still those of this process."""
        return _is_at(self.path, self._handle.fileno()) and _is_at(_claim_path(self.path), self._claim)

    def close(self) -> None:
        """Release the lock, and leave files that are no longer our own; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        if _is_at(_claim_path(self.path), self._claim):
            with suppress(OSError):
                os.unlink(_claim_path(self.path))
        os.close(self._claim)
        self._handle.close()

    def remove(self) -> None:
        """Release the lock and delete its file."""
        if self.is_own():
            with suppress(OSError):
                os.unlink(self.path)
        self.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._claim)


def take(path: Path) -> Lock | None:
    """Take the lock, and make its folder if needed; None if another process holds it.

    Raises:
        OSError: the folder cannot be written, or the lock is a link or no regular file.
    """
    for _ in range(TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = open(path, "a+", encoding="utf-8", opener=without_links)  # noqa: SIM115 - the lock keeps it
        except FileNotFoundError:
            continue  # its last holder just deleted the unused folder
        with ExitStack() as otherwise:
            otherwise.callback(handle.close)
            locked = _flock(handle, fcntl.LOCK_EX)
            if locked is False:
                time.sleep(PAUSE)
            elif _is_at(path, handle.fileno()):
                claim = _claim(path, by_flock=bool(locked))
                if claim is None:
                    return None
                otherwise.pop_all()
                return Lock(path, handle, claim)
    return None


def holder(path: Path) -> str:
    """The last holder of the lock, in words."""
    claim = _read_claim(_claim_path(path))
    if claim:
        return f"process {claim.get('pid')} on {claim.get('host')}"
    return "another process"


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as handle:  # does not wait for a pipe
            locked = _flock(handle, fcntl.LOCK_SH, warn=False)
    except OSError:
        return False
    if locked is False:
        return True
    claim = _read_claim(_claim_path(path))
    return claim is not None and not _is_void(_claim_path(path), claim, by_flock=bool(locked))


def _flock(handle: TextIO, kind: int, warn: bool = True) -> bool | None:
    """True if locked, False if another process has it, None if there are no locks here."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        line = _NO_LOCKS.format(error.strerror)
        if warn and line not in _said:
            _said.add(line)
            print(line, file=sys.stderr, flush=True)
        return None
    return True


# --- claims


def _claim_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.claim")


def _claim(path: Path, by_flock: bool) -> int | None:
    """The open file of a new claim, or None if another one is valid."""
    target = _claim_path(path)
    who = {"pid": os.getpid(), "host": socket.gethostname(), "place": _place(), "born": born(os.getpid())}
    text = json.dumps({**who, "flock": by_flock}).encode()
    for _ in range(TRIES):
        try:
            return _make(target, text)
        except FileExistsError:
            if not _remove_void(target, by_flock):
                return None
    return None


def _make(target: Path, text: bytes) -> int:
    """Make a new file, with its whole content at once if the file system has hard links."""
    aside = _aside(target)
    made = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(made, text)
        os.fsync(made)
        try:
            os.link(aside, target)
        except FileExistsError:
            raise
        except OSError:  # no hard links
            os.close(made)
            made = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            os.write(made, text)
    except BaseException:
        with suppress(OSError):
            os.close(made)
        raise
    finally:
        with suppress(OSError):
            os.unlink(aside)
    return made


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _remove_void(target: Path, by_flock: bool) -> bool:
    """Remove a claim if it is void; return False if it is valid.

    It is moved aside and judged again: of two processes that see the same void claim, the slower may have moved away
    the faster one's new claim, and must put it back.
    """
    claim = _read_claim(target)
    if claim is not None and not _is_void(target, claim, by_flock):
        return False
    aside = _aside(target)
    try:
        os.rename(target, aside)
    except FileNotFoundError:
        return True
    moved = _read_claim(aside)
    is_valid = moved is not None and not _is_void(aside, moved, by_flock)
    with suppress(OSError):
        if is_valid:
            os.link(aside, target)
    with suppress(FileNotFoundError):
        os.unlink(aside)
    return not is_valid


def _read_claim(target: Path) -> dict[str, Any] | None:
    """The content of a claim, {} if it is not readable (yet), None if there is none."""
    try:
        with open(target, "rb", opener=without_links) as handle:
            value = json.loads(handle.read(4096))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_void(target: Path, claim: dict[str, Any], by_flock: bool) -> bool:
    """Whether the holder of a claim, the content of `target`, is dead, or has been silent for too long.

    `by_flock`: this process has the `flock`, so that no other has it.
    """
    if by_flock and claim.get("flock") is True:
        return True
    if claim.get("place") == _place() and type(claim.get("pid")) is int:
        return born(claim["pid"]) != claim.get("born") or (claim.get("born") is None and not lives(claim["pid"]))
    try:
        return _now(target.parent) - os.lstat(target).st_mtime > STALE_SECONDS
    except FileNotFoundError:
        return True


def _now(folder: Path) -> float:
    """The time of the file system, which may be another machine's; ours if the folder cannot be written."""
    probe = _aside(folder / "clock")
    try:
        with open(probe, "xb") as handle:
            now = os.fstat(handle.fileno()).st_mtime
        os.unlink(probe)
        return now
    except OSError:
        return time.time()


def _place() -> str:
    """This boot of this machine, and this container, in which a process number is unambiguous."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            return False
        raise
