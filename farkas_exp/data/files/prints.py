"""Fingerprints of the files of a data set, kept in a run's record, so that runs on different files are told apart.

`run.json` has them as `data`, 16 hex digits each for the `files` and for smaller copies such as `copy 160`. They cover
the files' names below the folder, their sizes and classes, and their contents if these are at most `CONTENTS_UP_TO`
bytes in total; in larger data sets, content replaced by other content of the same size goes unnoticed. Needs neither
PyTorch nor a decoder.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from farkas_exp.config.folders import home, name_of
from farkas_exp.config.schema import DatasetConfig, PhasesConfig
from farkas_exp.data.files.copies import copies_in_use, copy_root
from farkas_exp.data.files.listing import SCANNERS, ImageSets, list_images
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.terminal import shown
from farkas_exp.registry import DATASETS

CONTENTS_UP_TO = 64 * 2**20

Prints = dict[str, str]


def prints_of_sets(sets: ImageSets, copies: Mapping[int, ImageSets]) -> Prints:
    """The fingerprints of listed files and of the copies in use."""
    return {"files": _print(sets), **{f"copy {size}": _print(copy) for size, copy in copies.items()}}


def prints_of_files(paths: Iterable[Path]) -> Prints:
    """The fingerprint of a data set of a few files, contents included."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode())
        digest.update(_content(str(path)))
    return {"files": digest.hexdigest()[:16]}


def prints(dataset: DatasetConfig, phases: PhasesConfig) -> Prints | None:
    """The present fingerprints of a data set; None if its files are not on this machine.

    Empty for a data set without files, or with files of known checksums.

    Raises:
        UserError: the files cannot be used.
    """
    key = (dataset.name, dataset.root, dataset.num_classes, dataset.copies, dataset.image_size, phases)
    known = {} if _remembered is None else _remembered
    if key not in known:
        entry = DATASETS.get(dataset.name)
        known[key] = {} if entry is None else entry.prints_of(dataset, phases)
    return known[key]


_remembered: dict[object, Prints | None] | None = None


@contextmanager
def remembered() -> Iterator[None]:
    """Within the block (a sweep), fingerprint each data set once."""
    global _remembered
    _remembered = {}
    try:
        yield
    finally:
        _remembered = None


def of_folder(dataset: DatasetConfig, phases: PhasesConfig) -> Prints | None:
    """The present fingerprints of a folder of image files and of its copies."""
    if dataset.root is None or not os.path.isdir(home(dataset.root, "dataset.root")):
        return None
    sets = list_images(dataset.root, dataset.num_classes)
    targets = {size: copy_root(sets.root, size) for size in copies_in_use(dataset, phases)}
    return prints_of_sets(sets, {s: list_images(str(path)) for s, path in targets.items() if os.path.isdir(path)})


def check_same(recorded: Mapping[str, str], now: Prints | None, dataset: DatasetConfig, run: Path) -> str:
    """Check that a run was trained on the present data; return a remark if that is unknown."""
    if now is None:
        return "its data are not on this machine"
    if not recorded:
        return "its record is older than fingerprints of data" if now else ""
    for what in recorded.keys() & now.keys():
        if recorded[what] != now[what]:
            raise UserError(
                f"dataset: {shown(dataset.root or name_of(dataset))} is not the data this run began with (fingerprint"
                f" of the {what} {now[what]}, was {recorded[what]}); restore it, or give the new data another"
                f" dataset.label or runs_dir, or move {run} away"
            )
    return ""


def _print(sets: ImageSets) -> str:
    """The fingerprint of listed files, with their contents if these are small."""
    digest = hashlib.sha256(sets.fingerprint().encode())
    if int(sets.train.sizes.sum() + sets.test.sizes.sum()) <= CONTENTS_UP_TO:
        with ThreadPoolExecutor(SCANNERS) as pool:
            for content in pool.map(_content, [*sets.train.paths(), *sets.test.paths()]):
                digest.update(content)
    return digest.hexdigest()[:16]


def _content(path: str) -> bytes:
    """The hash of a file's content."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"dataset.root: cannot read '{shown(path)}' ({error.strerror})") from None
