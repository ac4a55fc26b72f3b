"""Where a process is: its home, since in a container a user may have neither home nor name, and its folder."""

import getpass
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from farkas_exp.machine.errors import UserError


def ensure_home() -> None:
    """Set HOME and USER if unknown: W&B, matplotlib and PyTorch's compiler need them.

    HOME becomes a temporary folder of this user alone, if possible.
    """
    try:
        Path.home()
    except RuntimeError:
        with suppress(UserError):
            os.environ["HOME"] = str(private_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"uid{os.geteuid()}"


def check_folder() -> None:
    """Check that the current folder is there, to which relative paths belong.

    Raises:
        UserError: it has been deleted, or cannot be read.
    """
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder has been deleted; go to one that is there (cd) and try again") from None
    except OSError as error:
        raise UserError(f"the current folder: {error.strerror}; go to another one (cd) and try again") from None


def private_folder() -> Path:
    """A temporary folder that only this user may read and write, the same for all processes of the user.

    Raises:
        UserError: something else is in its place.
    """
    place = Path(tempfile.gettempdir()) / f"farkas_exp-{os.geteuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        why = why_unsafe(os.lstat(place), folder=True)
    except OSError as error:
        why = error.strerror
    if why:
        raise UserError(f"HOME: none is known, and {place} cannot be used ({why}); set HOME to a folder of your own")
    return place


def why_unsafe(found: os.stat_result, *, folder: bool = False) -> str | None:
    """Why others may have written a file or folder; None if only this user may."""
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(found.st_mode):
        return "it is a link, or of the wrong kind"
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    return "others may write it" if found.st_mode & 0o022 else None
