"""Compiled libraries in the user's own cache.

A library runs in this process. It is loaded only from a folder and a file that only this user may write, and with the
right checksum: a file cut off by a crash or a full disk would end the process without a message (SIGBUS). A damaged
library is compiled again.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import replacing, scratch_folder
from farkas_exp.machine.home import private_folder, why_unsafe

SECONDS = 300
"""The limit of a compilation."""

_DIGEST = hashlib.sha256().digest_size


class CompileError(Exception):
    """There is no library; the message says why in one line."""


class NoCompilerError(CompileError):
    """No compiler is installed or named by CXX."""


def load(name: str, sources: Sequence[Path], flags: Sequence[str], libraries: Sequence[str], key: str) -> ctypes.CDLL:
    """The library of these sources, from the cache or compiled into it.

    The first source is compiled, and includes the others; `libraries` follow it among the compiler's arguments. `key`
    is anything else that the result depends on, such as the processor.

    Raises:
        CompileError: there is no compiler, no safe folder, or the source does not compile.
    """
    compiler = compiler_command()
    texts = [*(source.read_text(encoding="utf-8") for source in sources), *compiler, *flags, *libraries, key]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}-{digest}.so"
    try:
        found = _checked(path)
        if found is None:
            _compile([*compiler, *flags], sources[0], libraries, path)
            found = _checked(path)
    except OSError as error:
        raise CompileError(f"{error.filename or path}: {error.strerror or error}") from None
    if found is None:
        raise CompileError(f"{path}: damaged right after it was written")
    return found


def compiler_command() -> list[str]:
    """The C++ compiler in `CXX`, which may have arguments (`ccache g++`), or an installed one.

    Raises:
        CompileError: there is none.
    """
    given = os.environ.get("CXX")
    if not given:
        found = shutil.which("g++") or shutil.which("clang++")
        if found is None:
            raise NoCompilerError("no C++ compiler is installed")
        return [found]
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise CompileError(f"CXX: {given!r} cannot be read as a command ({error})") from None
    if not command or shutil.which(command[0]) is None:
        raise CompileError(f"CXX: {given!r} is no command here; name a compiler, or unset CXX")
    return command


def cache_folder() -> Path:
    """The user's folder for compiled libraries, made if missing.

    It is in `XDG_CACHE_HOME` or `~/.cache`, or among the temporary files if these cannot be written.

    Raises:
        CompileError: there is no folder that only this user may write.
    """
    reasons = []
    for root in (_user_cache, private_folder):
        try:
            place = root() / "compiled"
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            why = why_unsafe(os.lstat(place), folder=True)
        except (OSError, RuntimeError, UserError) as error:  # RuntimeError: no HOME, and no name for this user
            reasons.append(str(error))
            continue
        if why is None and os.access(place, os.R_OK | os.W_OK | os.X_OK):
            return place
        reasons.append(f"{place}: {why or 'it cannot be written'}")
    raise CompileError(f"no folder for compiled code that only this user may write ({'; '.join(reasons)})")


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farkas_exp"


def _checked(path: Path) -> ctypes.CDLL | None:
    """The library in `path`, or None without a complete one of this user. Loads the very file that it checks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    if not _is_whole(descriptor):
        os.close(descriptor)
        return None
    opened = f"/proc/self/fd/{descriptor}"
    if not os.path.exists(opened):
        os.close(descriptor)
        return ctypes.CDLL(str(path))
    return ctypes.CDLL(opened)  # kept open: the loader knows a library by its name, which must stay taken


def _is_whole(descriptor: int) -> bool:
    """Whether an open file belongs to this user alone and ends in the checksum of the rest."""
    if why_unsafe(os.fstat(descriptor)):
        return False
    with open(descriptor, "rb", closefd=False) as file:
        content = file.read()
    return len(content) > _DIGEST and hashlib.sha256(content[:-_DIGEST]).digest() == content[-_DIGEST:]


def _compile(command: Sequence[str], source: Path, libraries: Sequence[str], path: Path) -> None:
    """Compile into `path`, whole or not at all; append the checksum, which loaders ignore."""
    with scratch_folder(path.parent, ".compiling-") as scratch:
        made = scratch / path.name
        try:
            done = subprocess.run(
                [*command, "-o", str(made), str(source), *libraries], capture_output=True, text=True, errors="replace",
                timeout=SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise CompileError(f"{command[0]}: not done after {SECONDS} s") from None
        content = made.read_bytes() if done.returncode == 0 and made.exists() else b""
        if not content:
            errors = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()] or ["no output"]
            raise CompileError(f"{command[0]}: status {done.returncode} ({errors[0][:200]})")
        with replacing(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content + hashlib.sha256(content).digest())
