"""A folder of made-up JPEG images for trying ImageNet's pipeline offline: `python scripts/make_image_folder.py DIR`."""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from farkas_exp.machine import signals

if __name__ == "__main__":
    signals.take_over()  # what follows takes seconds

import numpy as np
from PIL import Image

from farkas_exp.data.files.listing import ANNOTATIONS
from farkas_exp.machine.commands import check_counts, command
from farkas_exp.machine.files import replacing

QUALITY = 90


def make_folder(
    root: Path, *, classes: int, train: int, val: int, size: int, noise: float = 30.0, tiny: bool = False
) -> None:
    """Write `train` and `val` images of each class below `root`, except those that exist; the same ones each time.

    Each class is a noisy grating of its own direction and colour, with a random phase. The shorter side of an image is
    `size` to 1.5 times that, its aspect ratio 1/2 to 2.

    Args:
        root: the data set's folder.
        classes: number of classes, named n00000000, n00000001, ...
        train: training images a class.
        val: evaluation images a class.
        size: the least side in pixels.
        noise: standard deviation of the pixels' noise, which decides the size of the files: at 14, images of 300 pixels
            have 90 KB and about the pixels of an ILSVRC file (110 KB).
        tiny: Tiny-ImageNet's layout, in place of ImageNet's.
    """
    names = [f"n{label:08d}" for label in range(classes)]
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(names):
            if not tiny:
                folder = root / split / name
            else:
                folder = root / split / ((Path(name) / "images") if split == "train" else "images")
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                path = folder / f"{name if split == 'train' else 'val'}_{label * count + number}.JPEG"
                if not path.exists():
                    _write(path, label, classes, size, noise, f"0 {split} {label} {number}")
    if tiny:
        rows = [f"val_{i}.JPEG\t{names[i // val]}\t0\t0\t{size - 1}\t{size - 1}\n" for i in range(classes * val)]
        (root / "val" / ANNOTATIONS).write_text("".join(rows), encoding="utf-8")


def _write(path: Path, label: int, classes: int, size: int, deviation: float, purpose: str) -> None:
    draw = random.Random(purpose)
    shorter, aspect = draw.uniform(size, 1.5 * size), 2 ** draw.uniform(-1, 1)
    width, height = round(shorter * max(1.0, aspect)), round(shorter * max(1.0, 1 / aspect))
    angle, wavelength = np.pi * label / classes, shorter / 4
    rows, columns = np.mgrid[:height, :width]
    wave = np.sin(2 * np.pi * (columns * np.cos(angle) + rows * np.sin(angle)) / wavelength + draw.uniform(0, 6.3))
    colour = 0.5 + 0.5 * np.cos(2 * np.pi * (label / classes + np.array([0, 1 / 3, 2 / 3])))
    noise = np.random.default_rng(draw.getrandbits(32)).normal(0, deviation, (height, width, 3))
    pixels = 128 + 80 * wave[:, :, None] * colour + noise
    with replacing(path) as file:
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--train", type=int, default=40, help="training images a class")
    parser.add_argument("--val", type=int, default=10, help="evaluation images a class")
    parser.add_argument("--size", type=int, default=96, help="the least side in pixels")
    parser.add_argument("--tiny", action="store_true", help="Tiny-ImageNet's layout")
    return parser


@command(lambda: parser().format_help())
def main(arguments: Sequence[str]) -> None:
    """Make the folder."""
    given = parser().parse_args(arguments)
    check_counts(given, ("classes", "train", "val", "size"))
    make_folder(**vars(given))
    print(f"{given.root}: {given.classes} classes, {given.train} training and {given.val} evaluation images each")


if __name__ == "__main__":
    sys.exit(main())
