"""Put torchvision's files of a data set into its folder."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.files import scratch_folder

NETWORK_TIMEOUT = 30.0  # seconds without an answer


def obtain(
    config: DatasetConfig, root: Path, folder: Path, fetch: Callable[[Path], object], archive: Path | None = None
) -> None:
    """Let `fetch` make the relative `folder` in a temporary one, and move it into `root`.

    It downloads the files, or unpacks the `archive`. An interrupted download leaves nothing behind, and two at once do
    not disturb each other.
    """
    name, wanted = config.name, f"set dataset.root to the folder that holds {folder}"
    if not config.download and not (archive and archive.is_file()):
        raise UserError(f"dataset.root: no {name} in '{root}'; {wanted}, or dataset.download=true to fetch it")
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
        wanted += f", or put {archive.name} there by hand" if archive else ""
        raise UserError(f"dataset.root: cannot put {name} into '{root}' ({message_of(error)}); {wanted}") from error
    finally:
        socket.setdefaulttimeout(timeout)
