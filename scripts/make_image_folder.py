"""A folder of made-up JPEG images for trying ImageNet's pipeline offline: `python scripts/make_image_folder.py DIR`."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from farkas_exp.data.files.made import make_folder


def main() -> int:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--train", type=int, default=40, help="training images a class")
    parser.add_argument("--val", type=int, default=10, help="evaluation images a class")
    parser.add_argument("--size", type=int, default=96, help="the least side in pixels")
    parser.add_argument("--tiny", action="store_true", help="Tiny-ImageNet's layout")
    given = parser.parse_args()
    make_folder(given.root, classes=given.classes, train=given.train, val=given.val, size=given.size, tiny=given.tiny)
    print(f"{given.root}: {given.classes} classes, {given.train} training and {given.val} evaluation images each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
