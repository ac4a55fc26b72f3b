"""`--check-data`: decode every file of a streamed data set, and name those that cannot be."""

import sys
import time

from farkas_exp.config import DatasetConfig
from farkas_exp.errors import UserError
from farkas_exp.images.decode import broken_images
from farkas_exp.images.listing import STREAMED, list_images
from farkas_exp.images.pool import DecodingPool, default_workers

PART = 64
SHOW_EVERY = 5.0  # seconds


def check_data(dataset: DatasetConfig) -> int:
    """Print a line for each broken file and return their number.

    Raises:
        UserError: the data are not streamed images, or their folder has another layout than expected.
    """
    if dataset.name not in STREAMED:
        raise UserError(f"--check-data: {dataset.name} is not a folder of streamed images; use dataset=imagenet or"
                        " dataset=streamed_folder")  # fmt: skip
    sets = list_images(dataset.root, dataset.num_classes, allow_empty=True)
    total, done, broken = len(sets.train) + len(sets.test), 0, 0
    pool = DecodingPool(default_workers() if dataset.workers is None else dataset.workers)
    started = shown = time.monotonic()
    try:
        for files in (sets.train, sets.test):
            for lines in pool.map(broken_images, files.paths(range(len(files))), PART):
                for line in lines:
                    print(line, flush=True)
                broken, done = broken + len(lines), min(done + PART, total)
                if time.monotonic() - shown > SHOW_EVERY:
                    shown = time.monotonic()
                    rate = done / (shown - started)
                    print(f"checked {done:,} of {total:,} images, {rate:,.0f} a second", file=sys.stderr, flush=True)
    finally:
        pool.close()
    found = f"{broken} of {total:,} images are broken" if broken else f"all {total:,} images decode"
    sizes = f"{len(sets.train):,} training and {len(sets.test):,} evaluation images"
    print(f"{sets.root}: {len(sets.classes)} classes, {sizes}; {found}")
    return broken
