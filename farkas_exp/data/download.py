"""Put torchvision's files of a data set into its folder."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.files import scratch_folder

NETWORK_TIMEOUT = 30.0  # seconds without an answer


def put_into(root: Path, folder: Path, name: str, fetch: Callable[[Path], object], otherwise: str) -> None:
    """Let `fetch` make the relative `folder` in a temporary one, and move it into `root`.

    An interrupted download leaves nothing behind, and two at once do not disturb each other.
    """
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with scratch_folder(root, f".{name}-") as temporary:
            socket.setdefaulttimeout(NETWORK_TIMEOUT)
            fetch(temporary)
            (root / folder).parent.mkdir(exist_ok=True)
            if not (root / folder).is_dir():
                os.replace(temporary / folder, root / folder)
    except (OSError, RuntimeError) as error:
        if (root / folder).is_dir():  # another run was faster
            return
        why = f"cannot put {name} into '{root}' ({message_of(error)})"
        raise UserError(f"dataset.root: {why}; {otherwise}") from error
    finally:
        socket.setdefaulttimeout(timeout)
