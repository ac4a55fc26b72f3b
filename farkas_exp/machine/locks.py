"""The lock of a folder: held by one process, and only as long as it lives and the folder is where it was.

It has two parts. The first is the system's `flock`, which dies with its process, whatever kills it; Linux carries it
over NFS (since 2.6.12) and over Lustre mounted with `flock`. The second is a claim: a file that is made with `O_EXCL`,
says who holds the lock, and is touched every `BEAT_SECONDS`. Where `flock` works the claim of a process that lost its
`flock` means nothing, so nobody waits for a dead one. Where it fails, for one process or for all, the claim decides:
that of a dead process of this machine is void at once, that of another machine after `STALE_SECONDS` without a beat.

Whoever holds a lock asks before each write whether it still `is_own`: the folder may have been moved or deleted, and a
process that was stopped for minutes may have lost its claim.
"""

import errno
import fcntl
import json
import os
import secrets
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from farkas_exp.machine.files import open_or_make
from farkas_exp.machine.pids import born, lives

TRIES, PAUSE = 10, 0.02
"""A reader that looks at a lock holds it for a moment; whoever wants it tries that often, so many seconds apart."""

BEAT_SECONDS, STALE_SECONDS = 20.0, 300.0
"""How often a claim is renewed, and after how long without it the claim of another machine is void."""

_NO_LOCKS = "runs_dir: this file system has no file locks here ({}); a claim file that is kept alive replaces them"
_said: set[str] = set()


class Lock:
    """A lock that this process holds until it is closed. Made by `take`."""

    def __init__(self, path: Path, handle: TextIO, claim: int) -> None:
        self.path, self._handle, self._claim = path, handle, claim
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()

    def is_own(self) -> bool:
        """Whether the files at the lock's path are still the ones that this process made."""
        return _is_at(self.path, self._handle.fileno()) and _is_at(_claim_path(self.path), self._claim)

    def close(self) -> None:
        """Give the lock up; twice is harmless. Files that are no longer our own stay."""
        if self._ended.is_set():
            return
        self._ended.set()
        if _is_at(_claim_path(self.path), self._claim):
            with suppress(OSError):
                os.unlink(_claim_path(self.path))
        os.close(self._claim)
        self._handle.close()

    def remove(self) -> None:
        """Give the lock up and take its file away, too."""
        if self.is_own():
            with suppress(OSError):
                os.unlink(self.path)
        self.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(OSError):
                os.utime(self._claim)


def take(path: Path) -> Lock | None:
    """The lock, or None where another process holds it. Its folder is made if it is not there.

    Raises:
        OSError: the folder cannot be written, or the lock is a link or no regular file.
    """
    for _ in range(TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = open_or_make(path)
        except FileNotFoundError:
            continue  # its last holder took the unused folder away just now
        try:
            locked = _flock(handle, fcntl.LOCK_EX)
            if locked is not False and _is_at(path, handle.fileno()):
                claim = _claim(path, by_flock=bool(locked))
                if claim is not None:
                    return Lock(path, handle, claim)
                handle.close()
                return None
            if locked is False:
                time.sleep(PAUSE)
        except BaseException:
            handle.close()
            raise
        handle.close()
    return None


def holder(path: Path) -> str:
    """Who took the lock last, in words."""
    claim = _read_claim(_claim_path(path))
    if claim:
        return f"process {claim.get('pid')} on {claim.get('host')}"
    return "another process"


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as handle:  # not waiting for a pipe
            locked = _flock(handle, fcntl.LOCK_SH, warn=False)
    except OSError:
        return False
    if locked is False:
        return True
    claim = _read_claim(_claim_path(path))
    return claim is not None and not _is_void(_claim_path(path), claim, by_flock=bool(locked))


def _flock(handle: TextIO, kind: int, warn: bool = True) -> bool | None:
    """True: locked. False: another process has it. None: there are no locks here."""
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
    """The open file of a new claim, or None where somebody else's is valid."""
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
    """Make a file that must not be there, with its whole content at once where the file system has hard links."""
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
    """Take a claim away that means nothing any more; False where it is valid.

    It is moved aside before it is judged for the last time: of two processes that see the same void claim, the slower
    one may move the faster one's new claim, and then puts it back.
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
    """What a claim says, {} if it cannot be made out (yet), None if there is none."""
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    with open(descriptor, "rb") as handle:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return {}
        try:
            value = json.loads(handle.read(4096))
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def _is_void(target: Path, claim: dict[str, Any], by_flock: bool) -> bool:
    """Whether the process that made a claim is dead, or has been silent for too long.

    Args:
        target: where the claim is.
        claim: what it says.
        by_flock: whether whoever asks has the `flock`: then nobody else has it.
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
    """The time of the file system, which may be another machine's; our own where the folder cannot be written."""
    probe = _aside(folder / "clock")
    try:
        with open(probe, "xb") as handle:
            now = os.fstat(handle.fileno()).st_mtime
        os.unlink(probe)
        return now
    except OSError:
        return time.time()


def _place() -> str:
    """This machine since its start, and this container: where a process number means the same process."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
            return False
        raise
