"""The image files of a data set by folder, as arrays: ImageNet's 1.28 million are listed in seconds and take 60 MB.

Two layouts are known: `train/<class>/*` and `test/<class>/*` (or `val`), and Tiny-ImageNet's, `train/<class>/images/*`
and `val/images/*` with the classes in `val/val_annotations.txt`. Labels number the sorted class names.

Everything in these folders is used, counted in one line (`ImageSets.left_out`), or refused: broken links, pipes,
unreadable folders, classes in only one of the sets, and classes without an image.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from farkas_exp.config.folders import home
from farkas_exp.data.files.entries import SUFFIXES, LeftOut, entries, facts_of, is_folder, is_picture, kind_of
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.terminal import shown

LAYOUT = "it must hold train/<class>/* and test/<class>/* (or val)"
EVALUATION_FOLDERS = ("test", "val")
ANNOTATIONS = "val_annotations.txt"
SCANNERS = 16
"""Threads that read folders, waiting for a disk or network."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of one set, sorted by class and name.

    Attributes:
        folders: the folders of the files.
        folder: (N,) the index of a file's folder.
        names: (N,) file names, as bytes.
        sizes: (N,) in bytes.
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

    def paths(self, indices: Iterable[int] | None = None) -> list[str]:
        """The paths of some files; by default of all."""
        return [self.path(index) for index in (range(len(self)) if indices is None else indices)]

    def part(self, index: np.ndarray) -> "ImageFiles":
        """Some of the files."""
        arrays = ("folder", "names", "sizes", "labels")
        return replace(self, **{name: getattr(self, name)[index] for name in arrays})

    def moved(self, root: Path, target: Path) -> "ImageFiles":
        """The files of the same names below `target` in place of `root`."""
        return replace(self, folders=tuple(str(target / Path(folder).relative_to(root)) for folder in self.folders))


@dataclass(frozen=True)
class ImageSets:
    """A whole data set: its class names in the order of the labels, and its two sets of files.

    `left_out` says in a line what is not used; None if everything is.
    """

    root: Path
    classes: tuple[str, ...]
    train: ImageFiles
    test: ImageFiles
    left_out: str | None = None

    def fingerprint(self) -> str:
        """16 hex digits that change with any file's name, size or class; reads no file."""
        digest = hashlib.sha256("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        for files in (self.train, self.test):
            digest.update(b"\1")
            for values in (files.names, files.sizes, files.labels):
                digest.update(f"{values.dtype.str} {len(values)}\0".encode())
                digest.update(np.ascontiguousarray(values).data.cast("B"))
        return digest.hexdigest()[:16]


def list_images(root_name: str | None, num_classes: int | None = None, allow_empty: bool = False) -> ImageSets:
    """List the files of a data set whose names are those of JPEG or PNG, and not hidden; empty ones only if allowed.

    The evaluation set is `test`, or `val` if there is no `test`, or one without train's classes: ImageNet's and
    Tiny-ImageNet's have no labels.
    """
    if root_name is None:
        raise UserError(f"dataset.root: missing; set it to the folder of the images; {LAYOUT}")
    root = Path(home(root_name, "dataset.root")).absolute()
    if not os.path.isdir(root):
        raise UserError(f"dataset.root: '{shown(root)}' is not a folder; {LAYOUT}")
    left_out = LeftOut(root)
    train_folder = root / "train"
    _check_layout(root)
    classes = _class_folders(train_folder, left_out)
    if num_classes is not None and len(classes) != num_classes:
        raise UserError(
            f"dataset.root: '{shown(train_folder)}' has {len(classes)} class folders, expected {num_classes};"
            f" {LAYOUT} (dataset.num_classes=null takes any number)"
        )
    if len(classes) < 2:
        archives = sum(entry.name.endswith(".tar") for entry in entries(train_folder))
        hint = f"; unpack its {archives} archives, each into a folder of its name" if archives else ""
        raise UserError(
            f"dataset.root: '{shown(train_folder)}' has {len(classes)} class folder(s), at least 2 are needed{hint}"
        )
    train = _class_files(train_folder, classes, classes, left_out)
    test = _evaluation_files(_evaluation_folder(root, classes, left_out), train_folder, classes, left_out)
    for files in (train, test) if not allow_empty else ():
        empty = np.flatnonzero(files.sizes == 0)
        if len(empty):
            raise UserError(
                f"dataset.root: the image '{shown(files.path(empty[0]))}' is empty ({len(empty)} such files);"
                " repair or remove it"
            )
    return ImageSets(root, tuple(classes), train, test, left_out.line())


def _check_layout(root: Path) -> None:
    """Check that `train` and an evaluation folder exist; hint at those one level up or down."""
    folders = {name: root / name for name in ("train", *EVALUATION_FOLDERS)}
    for folder in folders.values():
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise UserError(f"dataset.root: '{shown(folder)}' is {kind_of(folder)}, not a folder; {LAYOUT}")
    has_train = folders["train"].is_dir()
    if has_train and any(folders[name].is_dir() for name in EVALUATION_FOLDERS):
        return
    names = sorted(entry.name for entry in entries(root))
    near = [root.parent] if root.name in folders else []
    near += [root / name for name in names[:1000] if not name.startswith(".")]
    hint = next((f"; did you mean '{shown(place)}'?" for place in near if os.path.isdir(place / "train")), "")
    missing = "'test' or 'val'" if has_train else "'train'"
    raise UserError(
        f"dataset.root: '{shown(root)}' has no folder {missing} (it has"
        f" {', '.join(map(shown, names[:5])) or 'nothing'}); {LAYOUT}{hint}"
    )


def _evaluation_folder(root: Path, classes: Sequence[str], left_out: LeftOut) -> Path:
    test, val = (root / name for name in EVALUATION_FOLDERS)
    if not (test.is_dir() and val.is_dir()):
        return test if test.is_dir() else val
    names = {entry.name for entry in entries(test)}
    labelled = ANNOTATIONS in names or not names.isdisjoint(classes)
    used, other = (test, val) if labelled else (val, test)
    left_out.add("whole folder", str(other))
    return used


def _evaluation_files(folder: Path, train_folder: Path, classes: Sequence[str], left_out: LeftOut) -> ImageFiles:
    if os.path.isfile(folder / ANNOTATIONS):
        files = _annotated_files(folder, classes, left_out)
    else:
        names = _class_folders(folder, left_out)
        if not names:
            raise UserError(
                f"dataset.root: '{shown(folder)}' has no class folders; sort its images into one folder for each class,"
                f" as in '{shown(train_folder)}' (ILSVRC's validation archive is flat)"
            )
        extra = sorted(set(names) - set(classes))
        if extra:
            raise UserError(
                f"dataset.root: class '{shown(extra[0])}' is in '{shown(folder)}', but not in '{shown(train_folder)}'"
            )
        files = _class_files(folder, names, classes, left_out)
    used = set(np.unique(files.labels).tolist())
    missing = [name for label, name in enumerate(classes) if label not in used]
    if missing:
        raise UserError(
            f"dataset.root: class '{shown(missing[0])}' of '{shown(train_folder)}' has no images in '{shown(folder)}'"
            f" ({len(missing)} such classes); add them, or remove the class from train"
        )
    return files


def _class_folders(folder: Path, left_out: LeftOut) -> list[str]:
    names = []
    for entry in entries(folder):
        if entry.name.startswith("."):
            if is_folder(entry) or is_picture(entry.name):
                left_out.add("hidden", entry.path)
        elif stat.S_ISDIR(facts_of(entry).st_mode):
            names.append(entry.name)
        elif entry.name != ANNOTATIONS:
            left_out.add("outside of the class folders", entry.path)
    return sorted(names)


@dataclass(frozen=True)
class _Scan:
    """The images in a folder, sorted by name, and what else is there: kind, path and number."""

    names: list[bytes]
    sizes: list[int]
    others: list[tuple[str, str, int]]


def _scan(folder: Path) -> _Scan:
    found: list[tuple[bytes, int]] = []
    others: list[tuple[str, str, int]] = []
    for entry in entries(folder):
        if entry.name.startswith("."):
            if is_folder(entry) or is_picture(entry.name):
                others.append(("hidden", entry.path, 1))
            continue
        if entry.name.lower().endswith(SUFFIXES):
            facts = facts_of(entry)
            if stat.S_ISREG(facts.st_mode):
                found.append((os.fsencode(entry.name), facts.st_size))
                continue
            if not stat.S_ISDIR(facts.st_mode):
                raise UserError(
                    f"dataset.root: '{shown(entry.path)}' is {kind_of(entry.path)}, not a file; mend or remove it"
                )
        others.append(_other(entry))
    found.sort()
    return _Scan([name for name, _ in found], [size for _, size in found], others)


def _other(entry: os.DirEntry[str]) -> tuple[str, str, int]:
    """Kind, path and number of an entry of a class folder that is no image to read."""
    if is_folder(entry):
        walk = [] if entry.is_symlink() else os.walk(entry.path)
        pictures = [os.path.join(place, name) for place, _, names in walk for name in names if is_picture(name)]
        return ("in subfolders", min(pictures), len(pictures)) if pictures else ("subfolder", entry.path, 1)
    suffix = os.path.splitext(entry.name)[1].lower()
    return (f"with the suffix {shown(suffix)}" if suffix else "without a suffix", entry.path, 1)


def _class_files(folder: Path, names: Sequence[str], classes: Sequence[str], left_out: LeftOut) -> ImageFiles:
    """The images of all class folders, or of Tiny-ImageNet's `images` in them."""
    places = [folder / name for name in names]
    tiny = all(os.path.isdir(place / "images") for place in places)
    with ThreadPoolExecutor(SCANNERS) as pool:
        found = list(pool.map(_scan, [place / "images" for place in places] if tiny else places))
        beside = list(pool.map(_beside_images, places)) if tiny else []
    for other in (other for scan in (*found, *beside) for other in scan.others):
        left_out.add(*other)
    if tiny:
        places = [place / "images" for place in places]
    for place, scan in zip(places, found, strict=True):
        if not scan.names:
            count = sum(count for _, _, count in scan.others)
            example = f" ({count} other entries, such as '{shown(scan.others[0][1])}')" if count else ""
            raise UserError(f"dataset.root: class folder '{shown(place)}' has no JPEG or PNG image{example}")
    label_of = {name: label for label, name in enumerate(classes)}
    counts = [len(scan.names) for scan in found]
    return ImageFiles(
        tuple(map(str, places)),
        np.repeat(np.arange(len(places), dtype=np.int32), counts),
        np.array([name for scan in found for name in scan.names], dtype=np.bytes_),
        np.array([size for scan in found for size in scan.sizes], dtype=np.int64),
        np.repeat(np.array([label_of[name] for name in names], dtype=np.int64), counts),
    )


def _beside_images(place: Path) -> _Scan:
    """What is beside `images` in a class folder of Tiny-ImageNet, except its table of boxes."""
    scan = _scan(place)
    known = str(place / "images")
    others = [other for other in scan.others if not (other[1].startswith(known) or other[1].endswith("_boxes.txt"))]
    others += [("beside 'images'", os.path.join(place, os.fsdecode(name)), 1) for name in scan.names]
    return replace(scan, others=others)


def _annotated_files(folder: Path, classes: Sequence[str], left_out: LeftOut) -> ImageFiles:
    """Tiny-ImageNet's validation set: one folder of images, and a table of file name, class and box."""
    table = _annotations(folder / ANNOTATIONS)
    place = folder / "images" if os.path.isdir(folder / "images") else folder
    scan = _scan(place)
    for kind, path, count in scan.others:
        if os.path.basename(path) != ANNOTATIONS:
            left_out.add(kind, path, count)
    label_of = {name: label for label, name in enumerate(classes)}
    names = [os.fsdecode(name) for name in scan.names]
    for name in names:
        if name not in table:
            raise UserError(f"dataset.root: the image '{shown(name)}' is in '{shown(folder)}', but not in its"
                            f" {ANNOTATIONS}")  # fmt: skip
        if table[name] not in label_of:
            raise UserError(f"dataset.root: class '{shown(table[name])}' of {ANNOTATIONS} has no folder in train")
    lost = sorted(set(table) - set(names))
    if lost:
        raise UserError(
            f"dataset.root: the image '{shown(lost[0])}' of {shown(folder / ANNOTATIONS)} is not in '{shown(place)}'"
        )
    labels = np.array([label_of[table[name]] for name in names], np.int64)
    sizes, folder_of = np.array(scan.sizes, np.int64), np.zeros(len(names), np.int32)
    files = ImageFiles((str(place),), folder_of, np.array(scan.names, np.bytes_), sizes, labels)
    return files.part(np.argsort(labels, kind="stable"))


def _annotations(path: Path) -> dict[str, str]:
    """{file name: class} of Tiny-ImageNet's table."""
    try:
        text = os.fsdecode(path.read_bytes())
    except OSError as error:
        raise UserError(f"dataset.root: cannot read '{shown(path)}' ({error.strerror})") from None
    return {fields[0]: fields[1] for line in text.split("\n") if len(fields := line.rstrip("\r").split("\t")) >= 2}
