"""Images in folders (`data.files.listing`), decoded once into memory.

The decoded images are cached in a file under the root, one for each image size, which is made again when any file
changes its name, size or time.
"""

import hashlib
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from farkas_exp.config.folders import name_of
from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.base import Arrays
from farkas_exp.data.files.cache import CACHE_FOLDER, made_by_one, read_cached, write_cached
from farkas_exp.data.files.decode import CentreCrop, image_sizes, quiet
from farkas_exp.data.files.listing import ImageSets, list_images
from farkas_exp.data.files.pool import DecodingPool, Request, workers_for
from farkas_exp.data.files.prints import prints_of_sets
from farkas_exp.machine.cores import memory
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import warn

CACHE_FORMAT = 2
MANY = 2000  # files; fewer take a moment
PROGRESS_EVERY = 5.0  # seconds
IN_A_BATCH, MOST_BYTES = 512, 2**24  # images, and bytes of them, that are decoded at once
MEMORY_SHARE = 0.25  # the share of memory for decoded images; cropping needs up to three copies
WHOLE = CentreCrop(1.0)
"""Scales an image of another size to cover the output, and crops its centre."""


def load(config: DatasetConfig, device: torch.device) -> Arrays:
    """RGB images (N, H, W, 3), `image_size` pixels square or as large as the first training image."""
    sets = list_images(config.root)
    images = torch.from_numpy(_images(config, sets))
    border = len(sets.train)
    return Arrays(
        name_of(config), sets.classes, images[:border], torch.from_numpy(sets.train.labels),
        images[border:], torch.from_numpy(sets.test.labels), prints_of_sets(sets, {}), sets.left_out,
    )  # fmt: skip


def _images(config: DatasetConfig, sets: ImageSets) -> np.ndarray:
    """The training and then the test images, from the cache or the files."""
    paths = [*sets.train.paths(), *sets.test.paths()]
    if not config.cache:
        return _decode_all(config, paths)
    size = config.image_size
    cache = sets.root / CACHE_FOLDER / f"images_{size or 'first'}.npz"
    wanted = (cache, _cache_key(sets, paths), np.uint8, (len(paths), size, size, 3))
    if (images := read_cached(*wanted)) is not None:
        return images
    with made_by_one(cache, config.name):
        images = read_cached(*wanted)  # which another process may have made
        if images is None:
            images = _decode_all(config, paths)
            write_cached(*wanted[:2], images)
    return images


def _cache_key(sets: ImageSets, paths: list[str]) -> str:
    """A key that changes with any file's name, size or time, and with the cache's format."""
    digest = hashlib.sha256(f"{CACHE_FORMAT} {sets.fingerprint()}".encode())
    for path in paths:
        facts = Path(path).stat()
        # a copy may keep st_mtime, but never st_ctime
        digest.update(f"\0{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}".encode())
    return digest.hexdigest()


def _decode_all(config: DatasetConfig, paths: list[str]) -> np.ndarray:
    with quiet():
        height, width = (config.image_size,) * 2 if config.image_size is not None else image_sizes(paths[:1])[0][::-1]
    needed = len(paths) * height * width * 3
    if needed > MEMORY_SHARE * memory():
        raise UserError(
            f"dataset.image_size: {len(paths)} images of {height}x{width} pixels take {needed / 2**30:.1f} GiB,"
            f" too much for this machine's memory ({memory() / 2**30:.1f} GiB); choose a smaller image_size"
        )
    pixels = np.empty((len(paths), height, width, 3), dtype=np.uint8)
    few = min(IN_A_BATCH, max(1, MOST_BYTES // (height * width * 3)))
    parts = [paths[start : start + few] for start in range(0, len(paths), few)]
    requests = [Request(part, [WHOLE] * len(part), height, width, draft=False) for part in parts]
    # threads would wait for each other in Python, and few images take less than the start of processes
    workers = workers_for(config.workers) if len(paths) >= MANY else 0
    done, shown = 0, time.monotonic()
    with closing(DecodingPool(workers)) as pool:
        for images in pool.batches(requests, few * height * width * 3):
            pixels[done : done + len(images)] = images
            done += len(images)
            if len(paths) >= MANY and (done == len(paths) or time.monotonic() - shown > PROGRESS_EVERY):
                shown = time.monotonic()
                warn(f"{config.name}: decoded {done:,} of {len(paths):,} images")
    return pixels
