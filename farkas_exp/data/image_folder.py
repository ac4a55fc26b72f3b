"""Images in folders, `root/train/<class>/*` and `root/test/<class>/*` (or `val`), decoded once into memory.

The decoded images are kept in a cache file under the root. The cache belongs to the exact list of files (names,
sizes, modification times) and, by its name, to the image size; when a file changes, it is made again.
"""

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from farkas_exp.config import DatasetConfig
from farkas_exp.cores import cores
from farkas_exp.data.base import Arrays, refuse_options
from farkas_exp.data.cache import CACHE_FOLDER, write_cached
from farkas_exp.errors import UserError
from farkas_exp.images.decode import SUFFIXES, to_rgb, unreadable

LAYOUT = "it must hold train/<class>/* and test/<class>/*"
TEST_FOLDERS = ("test", "val")  # the first one that exists
CACHE_FORMAT = 1
PROGRESS_FROM = 2000  # files; fewer take a moment
PROGRESS_EVERY = 5.0  # seconds
MEMORY_SHARE = 0.25  # of the machine's memory that decoded images may take; cropping needs up to three copies


@dataclass(frozen=True)
class Files:
    """The image files of one set, sorted by class and name, and their labels."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


def load(config: DatasetConfig, device: torch.device) -> Arrays:
    """RGB images (N, H, W, 3): `image_size` pixels square, or else as large as the first training image.

    Grey, palette and CMYK images become RGB. An image of another size or aspect is scaled to cover the size, then
    cropped at its centre. Hidden files and files that are neither JPEG nor PNG by their name are ignored.

    Raises:
        UserError: a missing folder, a class without images or without training images, an unreadable image.
    """
    refuse_options(config, "num_classes", "train_size", "test_size", "noise")
    if config.root is None:
        raise UserError("dataset.root: missing; set it to the folder that holds train/<class>/* and test/<class>/*")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset.root: '{root}' is not a folder; {LAYOUT}")
    train_folder = root / "train"
    test_folder = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), root / TEST_FOLDERS[0])
    for folder, what in ((train_folder, "'train'"), (test_folder, "'test' (or 'val')")):
        if not folder.is_dir():
            raise UserError(f"dataset.root: '{root}' has no folder {what}; {LAYOUT}")
    classes = _class_folders(train_folder)
    if len(classes) < 2:
        raise UserError(f"dataset.root: '{train_folder}' has {len(classes)} class folder(s); it needs at least 2")
    extra = sorted(set(_class_folders(test_folder)) - set(classes))
    if extra:
        raise UserError(f"dataset.root: class {extra[0]!r} is in '{test_folder}', but not in '{train_folder}'")
    train = list_images(train_folder, classes)
    test = list_images(test_folder, [name for name in classes if (test_folder / name).is_dir()], classes)
    images = _cached_images(config, root, (train, test))
    name = config.label or root.resolve().name
    return Arrays(name, tuple(classes), images[0], torch.tensor(train.labels), images[1], torch.tensor(test.labels))


def list_images(folder: Path, names: Sequence[str], classes: Sequence[str] | None = None) -> Files:
    """The images in the class folders `names` of `folder`, labelled by their place in `classes` (default: `names`).

    Raises:
        UserError: a class folder without an image, or no class folder.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for name in names:
        entries = sorted(entry.name for entry in os.scandir(folder / name) if not entry.name.startswith("."))
        found = [folder / name / entry for entry in entries if entry.lower().endswith(SUFFIXES)]
        if not found:
            others = f" ({len(entries)} other entries were ignored, such as {entries[0]!r})" if entries else ""
            raise UserError(f"dataset.root: class folder '{folder / name}' has no JPEG or PNG image{others}")
        paths += found
        labels += [(classes or names).index(name)] * len(found)
    if not paths:
        raise UserError(f"dataset.root: '{folder}' has no class folders")
    return Files(tuple(paths), tuple(labels))


def decode(path: Path, height: int, width: int) -> np.ndarray:
    """An image file as RGB bytes (height, width, 3).

    Raises:
        UserError: the file cannot be read as an image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            rgb = to_rgb(image)
        if rgb.size != (width, height):
            rgb = ImageOps.fit(rgb, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(rgb)
    except Exception as error:  # the decoders raise many types for a broken file
        raise unreadable(path, error) from error


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _cached_images(config: DatasetConfig, root: Path, sets: tuple[Files, Files]) -> list[Tensor]:
    size = config.image_size
    path = root / CACHE_FOLDER / f"images_{size or 'first'}.pt"
    key = _cache_key(root, sets)
    if config.cache:
        images = _read_cache(path, key)
        if images is not None:
            return images
    height, width = (size, size) if size is not None else _size_of(sets[0].paths[0])
    images = _decode_all(config, sets, height, width)
    if config.cache:
        write_cached(path, partial(torch.save, {"key": key, "images": images}))
    return images


def _cache_key(root: Path, sets: tuple[Files, Files]) -> str:
    """Changes with any file's name, size or modification time, and with the cache's format."""
    digest = hashlib.sha256(str(CACHE_FORMAT).encode())
    for files in sets:
        for path in files.paths:
            facts = path.stat()
            digest.update(f"\0{path.relative_to(root)}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
        digest.update(b"\1")
    return digest.hexdigest()


def _read_cache(path: Path, key: str) -> list[Tensor] | None:
    if not path.is_file():
        return None
    try:
        stored = torch.load(path, weights_only=True)
        return stored["images"] if stored["key"] == key else None
    except Exception:  # noqa: BLE001 - torn or foreign: as good as none, and decoding again mends it
        return None


def _size_of(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:
        decode(path, 1, 1)  # says what is wrong with it
        raise


def _decode_all(config: DatasetConfig, sets: tuple[Files, Files], height: int, width: int) -> list[Tensor]:
    paths = [path for files in sets for path in files.paths]
    needed, memory = len(paths) * height * width * 3, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * memory:
        raise UserError(
            f"dataset.image_size: {len(paths)} images of {height}x{width} pixels take {needed / 2**30:.1f} GiB,"
            f" too much for this machine's memory ({memory / 2**30:.1f} GiB); choose a smaller image_size"
        )
    pixels = np.empty((len(paths), height, width, 3), dtype=np.uint8)

    def decode_into(index: int) -> None:
        pixels[index] = decode(paths[index], height, width)

    shown = time.monotonic()
    with ThreadPoolExecutor(cores()) as pool:
        futures = [pool.submit(decode_into, index) for index in range(len(paths))]
        try:
            for done, future in enumerate(futures, start=1):
                future.result()
                if len(paths) >= PROGRESS_FROM and (done == len(paths) or time.monotonic() - shown > PROGRESS_EVERY):
                    shown = time.monotonic()
                    print(f"{config.name}: decoded {done:,} of {len(paths):,} images", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    border = len(sets[0].paths)
    return [torch.from_numpy(pixels[:border]), torch.from_numpy(pixels[border:])]
