"""A folder of made-up JPEG images for trying ImageNet's pipeline offline: `python scripts/make_image_folder.py DIR`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from farkas_exp.machine import signals

if __name__ == "__main__":
    signals.take_over()  # what follows takes seconds

from farkas_exp.data.files.made import make_folder
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError


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
    for key in ("classes", "train", "val", "size"):
        if (value := getattr(given, key)) < 1:
            raise UserError(f"--{key}: {value} is out of range; it must be at least 1")
    make_folder(given.root, classes=given.classes, train=given.train, val=given.val, size=given.size, tiny=given.tiny)
    print(f"{given.root}: {given.classes} classes, {given.train} training and {given.val} evaluation images each")


if __name__ == "__main__":
    sys.exit(main())
