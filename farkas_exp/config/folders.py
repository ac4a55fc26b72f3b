"""The folder of a data set: its path, and its name in a run's identity."""

import os
from dataclasses import replace
from pathlib import Path

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.config.written import Written
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.terminal import shown
from farkas_exp.registry import DATASETS


def labelled(dataset: DatasetConfig) -> DatasetConfig:
    """The dataset with the `label` of its identity: by default the name of its folder.

    Links are followed, so neither the path nor its spelling (`~`, `.`, a final slash) matters. Data sets that
    `dataset.name` names have no label.
    """
    entry = DATASETS.get(dataset.name)
    if entry is None or not entry.named_by_folder or dataset.label or dataset.root is None:
        return dataset
    try:
        folder = Path(home(dataset.root, "dataset.root")).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"dataset.root: {shown(dataset.root)!r} is no path of a folder ({error})") from None
    return replace(dataset, label=shown(folder.name or folder))


def name_of(dataset: DatasetConfig) -> str:
    """What the data are called in messages: by their label, or by the name of the data set."""
    return labelled(dataset).label or dataset.name


def check_reached(dataset: DatasetConfig, otherwise: str) -> None:
    """Check that a folder that a run has named relative to its own current folder is found from this one.

    Args:
        dataset: the group of the run; what is downloaded where it is missing needs no folder.
        otherwise: what else the user can do than go to the run's folder.

    Raises:
        UserError: it is not there.
    """
    fetched = dataset.download and not DATASETS[dataset.name].image_files
    root = dataset.root or "."
    folder = Path(home(root, "dataset.root"))
    if not fetched and not folder.is_absolute() and not folder.is_dir():
        raise UserError(
            f"dataset.root: the run has read {shown(root)!r}, and '{shown(folder.absolute())}' is no folder;"
            f" give the command in the folder in which the run was trained, or {otherwise}"
        )


def home(path: str, where: str) -> str:
    """`path` with a leading ~ replaced by the user's home, as in a shell."""
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{where}: {path!r}: there is no such home here; write the whole path")
    return Written(expanded, path.source) if isinstance(path, Written) else expanded
