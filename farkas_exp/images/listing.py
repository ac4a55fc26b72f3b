"""The image files of a data set by folder, as arrays: ImageNet's 1.28 million are listed in seconds and take 60 MB.

Two layouts are known: `train/<class>/*` and `val/<class>/*` (or `test`), and Tiny-ImageNet's, `train/<class>/images/*`
and `val/images/*` with the classes in `val/val_annotations.txt`. Labels are the places of the sorted class names.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from farkas_exp.errors import UserError
from farkas_exp.images.decode import SUFFIXES

STREAMED = ("imagenet", "streamed_folder")
"""The data sets whose images are decoded while the network trains."""
LAYOUT = "it must hold train/<class>/* and val/<class>/*"
EVALUATION_FOLDERS = ("val", "test")  # the first one that exists
ANNOTATIONS = "val_annotations.txt"
SCANNERS = 16
"""Threads that read folders: they wait for the disk, or for a network."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of one set, sorted by class and name.

    Attributes:
        folders: the folders that the files are in.
        folder: (N,) index of a file's folder.
        names: (N,) the file's name, as bytes.
        sizes: (N,) its bytes.
        labels: (N,) int64.
    """

    folders: tuple[str, ...]
    folder: np.ndarray
    names: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """The path of a file."""
        return os.path.join(self.folders[self.folder[index]], os.fsdecode(self.names[index].item()))

    def paths(self, indices: Iterable[int]) -> list[str]:
        """The paths of some files."""
        return [self.path(index) for index in indices]

    def part(self, index: np.ndarray) -> "ImageFiles":
        """Some of the files."""
        return ImageFiles(self.folders, self.folder[index], self.names[index], self.sizes[index], self.labels[index])

    def moved(self, root: Path, target: Path) -> "ImageFiles":
        """The files of the same names below `target` in the place of `root`."""
        folders = tuple(str(target / Path(folder).relative_to(root)) for folder in self.folders)
        return ImageFiles(folders, self.folder, self.names, self.sizes, self.labels)


@dataclass(frozen=True)
class ImageSets:
    """A whole data set: its class names in the order of the labels, and its two sets of files."""

    root: Path
    classes: tuple[str, ...]
    train: ImageFiles
    test: ImageFiles

    def fingerprint(self) -> str:
        """16 hex digits that change with any file's name, size or class; the files are not read."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for files in (self.train, self.test):
            digest.update(b"\1")
            for values in (files.names, files.sizes, files.labels):
                digest.update(f"{values.dtype.str} {len(values)}\0".encode())
                digest.update(np.ascontiguousarray(values).data.cast("B"))
        return digest.hexdigest()[:16]


def list_images(root_name: str | None, num_classes: int | None = None, allow_empty: bool = False) -> ImageSets:
    """List the files of a data set. Hidden files, and those that are neither JPEG nor PNG by name, are ignored.

    Args:
        root_name: the folder, as the configuration has it.
        num_classes: how many classes there must be; None for any number.
        allow_empty: list empty files like all others.

    Raises:
        UserError: another layout than expected, another number of classes than `num_classes`, a class that only one of
            the sets has, a class without images, or an empty file.
    """
    if root_name is None:
        raise UserError(f"dataset.root: missing; set it to the folder of the images; {LAYOUT}")
    root = Path(root_name).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"dataset.root: '{root}' is not a folder; {LAYOUT}")
    train_folder = root / "train"
    test_folder = next((root / name for name in EVALUATION_FOLDERS if (root / name).is_dir()), None)
    if not train_folder.is_dir() or test_folder is None:
        found = ", ".join(sorted(entry.name for entry in os.scandir(root))[:5]) or "nothing"
        raise UserError(
            f"dataset.root: '{root}' has no folder '{'val' if train_folder.is_dir() else 'train'}' (it has {found});"
            f" {LAYOUT}"
        )
    classes = _class_folders(train_folder)
    if num_classes is not None and len(classes) != num_classes:
        raise UserError(
            f"dataset.root: '{train_folder}' has {len(classes)} class folders, expected {num_classes};"
            f" {LAYOUT} (dataset.num_classes=null takes any number)"
        )
    if len(classes) < 2:
        raise UserError(
            f"dataset.root: '{train_folder}' has {len(classes)} class folder(s), at least 2 are needed"
            f"{_tar(train_folder)}"
        )
    train = _class_files(train_folder, classes, classes)
    if (test_folder / ANNOTATIONS).is_file():
        test = _annotated_files(test_folder, classes)
    else:
        names = _class_folders(test_folder)
        if not names:
            raise UserError(
                f"dataset.root: '{test_folder}' has no class folders; sort its images into one folder for each class,"
                f" as in '{train_folder}' (ILSVRC's validation archive is flat)"
            )
        test = _class_files(test_folder, names, classes)
    _check_same_classes(classes, test, train_folder, test_folder)
    for files in (train, test) if not allow_empty else ():
        empty = np.flatnonzero(files.sizes == 0)
        if len(empty):
            raise UserError(
                f"dataset.root: the image '{files.path(empty[0])}' is empty ({len(empty)} such files);"
                " repair or remove it"
            )
    return ImageSets(root, tuple(classes), train, test)


def _tar(folder: Path) -> str:
    archives = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".tar")]
    return f"; unpack its {len(archives)} archives, each into a folder of its name" if archives else ""


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _scan(folder: Path) -> tuple[list[bytes], list[int], int]:
    """Names and sizes of the images in a folder, and how many other entries it has."""
    names, sizes, others = [], [], 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(SUFFIXES):
                names.append(os.fsencode(entry.name))
                sizes.append(entry.stat().st_size)
            else:
                others += 1
    order = sorted(range(len(names)), key=names.__getitem__)
    return [names[i] for i in order], [sizes[i] for i in order], others


def _class_files(folder: Path, names: Sequence[str], classes: Sequence[str]) -> ImageFiles:
    """The images of all class folders; Tiny-ImageNet's are in `images` there."""
    places = [folder / name for name in names]
    if all((place / "images").is_dir() for place in places):
        places = [place / "images" for place in places]
    label_of = {name: label for label, name in enumerate(classes)}
    extra = sorted(set(names) - set(classes))
    if extra:
        raise UserError(f"dataset.root: class {extra[0]!r} is in '{folder}', but not in '{folder.parent / 'train'}'")
    with ThreadPoolExecutor(SCANNERS) as pool:
        found = list(pool.map(_scan, places))
    for place, (images, _, others) in zip(places, found, strict=True):
        if not images:
            ignored = f" ({others} other entries were ignored)" if others else ""
            raise UserError(f"dataset.root: class folder '{place}' has no JPEG or PNG image{ignored}")
    counts = [len(images) for images, _, _ in found]
    return ImageFiles(
        tuple(map(str, places)),
        np.repeat(np.arange(len(places), dtype=np.int32), counts),
        np.array([name for images, _, _ in found for name in images], dtype=np.bytes_),
        np.array([size for _, sizes, _ in found for size in sizes], dtype=np.int64),
        np.repeat(np.array([label_of[name] for name in names], dtype=np.int64), counts),
    )


def _annotated_files(folder: Path, classes: Sequence[str]) -> ImageFiles:
    """Tiny-ImageNet's validation set: one folder of images, their classes in a table of file name, class, box."""
    lines = (folder / ANNOTATIONS).read_text(encoding="utf-8").splitlines()
    table = {fields[0]: fields[1] for line in lines if len(fields := line.split("\t")) >= 2}
    names, sizes, _ = _scan(folder / "images" if (folder / "images").is_dir() else folder)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = []
    for name in map(os.fsdecode, names):
        if name not in table:
            raise UserError(f"dataset.root: the image '{name}' is in '{folder}', but not in its {ANNOTATIONS}")
        if table[name] not in label_of:
            raise UserError(f"dataset.root: class {table[name]!r} of {ANNOTATIONS} has no folder in train")
        labels.append(label_of[table[name]])
    lost = sorted(set(table) - set(map(os.fsdecode, names)))
    if lost:
        raise UserError(
            f"dataset.root: the image '{lost[0]}' of {folder / ANNOTATIONS} is not in '{folder / 'images'}'"
        )
    order = np.argsort(np.array(labels, dtype=np.int64), kind="stable")
    place = (str(folder / "images") if (folder / "images").is_dir() else str(folder),)
    zeros = np.zeros(len(names), dtype=np.int32)
    files = ImageFiles(
        place, zeros, np.array(names, dtype=np.bytes_), np.array(sizes, np.int64), np.array(labels, np.int64)
    )
    return files.part(order)


def _check_same_classes(classes: Sequence[str], test: ImageFiles, train_folder: Path, test_folder: Path) -> None:
    there = np.bincount(test.labels, minlength=len(classes)) > 0
    if not there.all():
        missing = [name for name, has in zip(classes, there, strict=True) if not has]
        raise UserError(
            f"dataset.root: class {missing[0]!r} of '{train_folder}' has no images in '{test_folder}'"
            f" ({len(missing)} such classes); add them, or remove the class from train"
        )
