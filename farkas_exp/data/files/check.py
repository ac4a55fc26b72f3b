"""`--check-data`: decode every file of a folder of images, and name what is broken and what is unused."""

import time
from contextlib import closing

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.files.decode import broken_images
from farkas_exp.data.files.listing import list_images
from farkas_exp.data.files.pool import DecodingPool, workers_for
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.output import warn
from farkas_exp.machine.terminal import shown
from farkas_exp.registry import DATASETS

PART = 64
SHOW_EVERY = 5.0  # seconds


def check_data(dataset: DatasetConfig) -> int:
    """Print a line for each broken file and return their number."""
    if not DATASETS[dataset.name].image_files:
        known = ", ".join(f"dataset={name}" for name in sorted(DATASETS) if DATASETS[name].image_files)
        raise UserError(f"--check-data: {dataset.name} is not a folder of images; it is for {known}")
    sets = list_images(dataset.root, dataset.num_classes, allow_empty=True)
    total, broken = len(sets.train) + len(sets.test), 0
    started = told = time.monotonic()
    with closing(DecodingPool(workers_for(dataset.workers))) as pool:
        parts = pool.map(broken_images, [*sets.train.paths(), *sets.test.paths()], PART)
        for number, lines in enumerate(parts, start=1):
            for line in lines:
                print(line, flush=True)
            broken += len(lines)
            if time.monotonic() - told > SHOW_EVERY:
                told, done = time.monotonic(), min(number * PART, total)
                warn(f"checked {done:,} of {total:,} images, {done / (told - started):,.0f} a second")
    found = f"{broken} of {total:,} images are broken" if broken else f"all {total:,} images decode"
    sizes = f"{len(sets.train):,} training and {len(sets.test):,} evaluation images"
    if sets.left_out:
        print(sets.left_out)
    print(f"{shown(sets.root)}: {len(sets.classes)} classes, {sizes}; {found}")
    return broken
