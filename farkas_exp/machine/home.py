"""A home for a process that has none: in a container a user may have neither a home nor a name."""

import getpass
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from farkas_exp.machine.errors import UserError


def ensure_home() -> None:
    """Let HOME and USER be known, which libraries ask for on their way (W&B, matplotlib, PyTorch's compiler).

    Without a home that is a folder for temporary files that belongs to this user alone, if there can be one.
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


def private_folder() -> Path:
    """A folder for temporary files that only this user may read and write, the same for all processes of the user.

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
    """Why a file, or a folder, may hold what somebody else has put there; None where only this user may write it."""
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(found.st_mode):
        return "it is a link, or something else than it should be"
    if found.st_uid != os.geteuid():
        return "it belongs to another user"
    return "others may write it" if found.st_mode & 0o022 else None
