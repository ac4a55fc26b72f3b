"""A folder of pictures, and what may happen to its files."""

import os
import shutil
from pathlib import Path

from PIL import Image


def pictures(root: Path, colour: int = 0) -> Path:
    """Two classes of 3 training and 2 test pictures of one colour each."""
    for split, count in (("train", 3), ("test", 2)):
        for name in ("one", "two"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                Image.new("RGB", (6, 6), (colour, 100, 200)).save(root / split / name / f"{number}.png")
    return root


def replaced(root: Path) -> None:
    """Other pictures of the same names, sizes and times."""
    for path in root.rglob("*.png"):
        facts = path.stat()
        Image.new("RGB", (6, 6), (1, 101, 201)).save(path)
        assert path.stat().st_size == facts.st_size
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def renamed(root: Path) -> None:
    (root / "train" / "one" / "0.png").rename(root / "train" / "one" / "9.png")


def reclassified(root: Path) -> None:
    (root / "train" / "one" / "0.png").rename(root / "train" / "two" / "9.png")


def added(root: Path) -> None:
    shutil.copy(root / "test" / "one" / "0.png", root / "test" / "one" / "9.png")


def swapped(root: Path) -> None:
    for old, new in (("train", "x"), ("test", "train"), ("x", "test")):
        (root / old).rename(root / new)
