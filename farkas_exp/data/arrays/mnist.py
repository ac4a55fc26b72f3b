"""MNIST in torchvision's layout, downloaded if missing."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farkas_exp.config.folders import home
from farkas_exp.config.schema import DatasetConfig, PhasesConfig
from farkas_exp.data.base import Arrays, chosen
from farkas_exp.data.download import obtain
from farkas_exp.data.files.prints import Prints, prints_of_files
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.terminal import shown
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FOLDER = Path("MNIST", "raw")
PARTS = ("train", "t10k")

DATASETS.register(
    "mnist", f"{__name__}:load", label="MNIST", classes=10, prints=f"{__name__}:prints",
    options={"root": "data", "image_size": 28, "download": None},
)  # fmt: skip


def load(config: DatasetConfig, device: "torch.device") -> Arrays:
    """60,000 training and 10,000 test images (N, 28, 28, 1) from `dataset.root` (default: `data`)."""
    root = _root(config)
    if not (root / FOLDER).is_dir():
        from torchvision import datasets  # takes a second to import

        layout: Any = datasets.MNIST
        obtain(config, root, FOLDER, lambda temporary: layout(temporary, download=True))
    for file in files(config):
        if file.exists() and not file.is_file():
            raise UserError(f"dataset.root: '{shown(file)}' is not a file; remove it")
    train, test = (_read(root / FOLDER, part) for part in PARTS)
    names = tuple(str(digit) for digit in range(10))
    return Arrays(config.name, names, *train, *test, prints_of_files(files(config)))


def files(config: DatasetConfig) -> list[Path]:
    """The paths of the four files."""
    return [
        _root(config) / FOLDER / f"{part}-{what}-ubyte" for part in PARTS for what in ("images-idx3", "labels-idx1")
    ]


def prints(config: DatasetConfig, phases: PhasesConfig) -> Prints | None:
    """The fingerprint of the files: those of Fashion-MNIST, for example, have the same names."""
    paths = files(config)
    return prints_of_files(paths) if all(map(os.path.isfile, paths)) else None


def _root(config: DatasetConfig) -> Path:
    return Path(home(chosen(config, "root"), "dataset.root"))


def _read(folder: Path, part: str) -> "tuple[Tensor, Tensor]":
    """The images (N, 28, 28, 1) uint8 and labels (N,) int64 of one set."""
    from torchvision.datasets.mnist import read_image_file, read_label_file

    try:
        images = read_image_file(str(folder / f"{part}-images-idx3-ubyte"))
        labels = read_label_file(str(folder / f"{part}-labels-idx1-ubyte"))
        if len(images) != len(labels) or not len(images):
            raise ValueError(f"{len(images)} images, {len(labels)} labels")
    except (OSError, ValueError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or "not in MNIST's format"
        raise UserError(
            f"dataset.root: the {part} files of mnist in {folder} are missing or damaged ({reason}); delete {folder}"
            " to have them fetched again, or point dataset.root to a good copy"
        ) from error
    return images.unsqueeze(-1), labels
