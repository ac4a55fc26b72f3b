"""What a folder and its files are called: in messages, and in a run's identity. Imports nothing heavy."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:  # `config` itself uses this module
    from farkas_exp.config import DatasetConfig


def labelled(dataset: "DatasetConfig") -> "DatasetConfig":
    """The dataset with the `label` that belongs to its identity: where none is given, the name of its folder.

    Links are followed, so that neither the path nor the way it is written (`~`, `.`, a slash at the end) matters. Data
    sets that are named by `dataset.name` have no label, and keep the identity that they have without it.

    Raises:
        UserError: there is no such path.
    """
    entry = DATASETS.get(dataset.name)
    if entry is None or not entry.named_by_folder or dataset.label or dataset.root is None:
        return dataset
    try:
        folder = expanded(dataset.root).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"dataset.root: {shown(dataset.root)!r} is no path of a folder ({error})") from None
    return replace(dataset, label=shown(folder.name or folder))


def expanded(root: str) -> Path:
    """The path of `dataset.root`, with `~` for the home.

    Raises:
        UserError: there is no such home.
    """
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise UserError(f"dataset.root: {shown(root)!r} has no home folder ({error})") from None


def shown(path: str | os.PathLike[str]) -> str:
    """A path as one line of text that every terminal and file can take, whatever its bytes are."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
