"""Write files whole or not at all, and never through a link into somebody else's.

`replacing` writes whole files, `appending` opens those that grow by lines. Folders may be shared: a symbolic link or
pipe in place of a file is refused.
"""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from farkas_exp.machine.signals import at_stake, last_words


@contextmanager
def replacing(path: str | os.PathLike[str], keep: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces `path`, synchronised, when the block ends; the old one is moved to `keep`, or lost.

    If the block fails, `path` stays as it was and nothing else is left. Two writers of one path do not disturb each
    other; the last one wins. An `OSError` that names no file (a full disk) is made to name `path`.
    """
    folder, name = os.path.split(os.fspath(path))
    temporary = os.path.join(folder, f".{name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with at_stake():
        try:
            with open(temporary, "xb", opener=without_links) as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            if keep is not None and os.path.lexists(path):
                os.replace(path, keep)
            os.replace(temporary, path)
        except BaseException as error:
            Path(temporary).unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename in (None, temporary):
                error.filename = os.fspath(path)
            raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a whole file in UTF-8, or nothing."""
    with replacing(path) as handle:
        handle.write(text.encode())


def appending(path: str | os.PathLike[str]) -> TextIO:
    """Open a text file at its end, and make it if needed.

    Raises:
        OSError: it cannot be opened, or is a link or no regular file.
    """
    return open(path, "a", encoding="utf-8", opener=without_links)


def cut_torn_line(path: str | os.PathLike[str]) -> None:
    """Cut off an unfinished last line, as a killed process leaves it."""
    with suppress(FileNotFoundError), open(path, "r+b", opener=without_links) as handle:
        content = handle.read()
        if content and not content.endswith(b"\n"):
            handle.truncate(content.rfind(b"\n") + 1)


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder in `parent` that is deleted at the end of the block, or when the process is asked to stop."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as folder:
        made = Path(folder)
        with last_words(partial(shutil.rmtree, made, ignore_errors=True)):
            yield made


def without_links(path: str, flags: int) -> int:
    """An opener for regular files only, which a pipe does not block."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed; remove it", path) from None
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, _NO_FILE, path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, _NO_FILE, path)
    return descriptor


_NO_FILE = "it is no regular file; move it away"
