"""CIFAR-10 and CIFAR-100 in torchvision's layout, downloaded if missing, with every checksum checked."""

import os
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from farkas_exp.config.folders import home
from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.base import Arrays, chosen
from farkas_exp.data.download import obtain
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:
    import torch

for _classes in (10, 100):
    _options = {"root": "data", "image_size": 32, "download": None}
    DATASETS.register(
        f"cifar{_classes}", f"{__name__}:load", label=f"CIFAR-{_classes}", classes=_classes, options=_options
    )


def load(config: DatasetConfig, device: "torch.device") -> Arrays:
    """50,000 training and 10,000 test images (N, 32, 32, 3) from `dataset.root` (default: `data`)."""
    from torchvision import datasets  # takes a second to import
    from torchvision.datasets.utils import check_integrity

    layout: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]
    root = Path(home(chosen(config, "root"), "dataset.root"))
    folder = root / layout.base_folder
    if not folder.is_dir():
        _obtain(config, layout, root)
    for file, md5 in [*layout.train_list, *layout.test_list, (layout.meta["filename"], layout.meta["md5"])]:
        if not check_integrity(str(folder / file), md5):
            state = "damaged (its checksum is wrong)" if (folder / file).is_file() else "missing"
            raise UserError(
                f"dataset.root: {folder / file} is {state}; delete {folder} to have it fetched again,"
                f" or point dataset.root to a good copy of {config.name}"
            )
    names = tuple(_unpickle(folder / layout.meta["filename"])[layout.meta["key"]])
    return Arrays(config.name, names, *_read(folder, layout.train_list), *_read(folder, layout.test_list))


def _read(folder: Path, files: list[tuple[str, str]]) -> "tuple[torch.Tensor, torch.Tensor]":
    import torch

    parts = [_unpickle(folder / file) for file, _ in files]
    planes = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([part["labels"] if "labels" in part else part["fine_labels"] for part in parts])
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _unpickle(path: Path) -> dict[str, Any]:
    """Read a file whose checksum was checked, since any other pickle could run code."""
    with warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")  # new NumPy versions warn of arrays pickled by old ones
        return pickle.load(file, encoding="latin1")


def _obtain(config: DatasetConfig, layout: Any, root: Path) -> None:
    """Unpack the archive in `root`, or download it."""
    from torchvision.datasets.utils import check_integrity

    archive = root / layout.filename
    if archive.is_file() and not check_integrity(str(archive), layout.tgz_md5):
        raise UserError(
            f"dataset.root: {archive} is damaged (its checksum is wrong); delete it to have it downloaded again,"
            f" or set dataset.root to the folder that holds {layout.base_folder}"
        )

    def fetch(temporary: Path) -> None:
        if archive.is_file():
            os.symlink(archive.resolve(), temporary / layout.filename)
        layout(temporary, train=False, download=True)

    obtain(config, root, Path(layout.base_folder), fetch, archive)
