"""Smaller copies of a data set, whole or in part: made in parallel, a whole file or none, only what is missing."""

import argparse
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from farkas_exp.data.files.copies import copy_root
from farkas_exp.data.files.decode import opened, to_rgb
from farkas_exp.data.files.entries import is_picture
from farkas_exp.data.files.listing import ANNOTATIONS, EVALUATION_FOLDERS, ImageFiles, ImageSets, list_images
from farkas_exp.data.files.pool import DecodingPool, workers_for
from farkas_exp.machine.commands import command
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import replacing
from farkas_exp.machine.output import warn
from farkas_exp.machine.signals import last_words
from farkas_exp.machine.terminal import shown

QUALITY = 90
MARGIN = 2
"""A JPEG is read at no less than this many times the copy's size, so that the decoder's own reduction does not show."""
AT_ONCE = 4096
PART = 16


class CannotWrite(UserError):  # noqa: N818 - reads as what happened
    """A copy cannot be written: no fault of its original, and the next one could not be either."""


@dataclass(frozen=True)
class Reduction:
    """What is copied of a data set, and how.

    Attributes:
        size: pixels of a copy's shorter side.
        area: whether a pixel of a copy is the mean of the area that it covers, and the copy a PNG, without loss; else
            Lanczos' filter, in the format of the original.
        train: training images of each class, evenly spaced in the order of their names; None for all.
        test: the same for the evaluation set.
    """

    size: int
    area: bool = False
    train: int | None = None
    test: int | None = None

    def chosen(self, sets: ImageSets) -> tuple[ImageFiles, ImageFiles]:
        """The files of both sets that are copied."""
        wanted = (("train", sets.train, self.train), ("evaluation", sets.test, self.test))
        train, test = (
            files if count is None else _spaced(files, count, f"{name} images", sets) for name, files, count in wanted
        )
        return train, test

    def named(self, copies: ImageFiles) -> ImageFiles:
        """The copies with the names that they get."""
        if not self.area:
            return copies
        names = np.array([os.path.splitext(name)[0] + b".png" for name in copies.names.tolist()])
        (folder, name), count = Counter(zip(copies.folder.tolist(), names.tolist(), strict=True)).most_common(1)[0]
        if count > 1:
            path = os.path.join(copies.folders[folder], os.fsdecode(name))
            raise UserError(f"{shown(path)}: {count} images would get this name; rename all but one")
        return replace(copies, names=names)


def _spaced(files: ImageFiles, count: int, what: str, sets: ImageSets) -> ImageFiles:
    """`count` files of each class, evenly spaced in their order."""
    found = []
    for label, name in enumerate(sets.classes):
        of_class = np.flatnonzero(files.labels == label)
        if len(of_class) < count:
            raise UserError(f"{shown(sets.root)}: the class {name!r} has {len(of_class)} {what}, {count} are asked for")
        found.append(of_class[np.arange(count) * len(of_class) // count])
    return files.part(np.concatenate(found))


def resize_file(source: str, target: str, size: int, area: bool = False) -> None:
    """Write a copy of an image whose shorter side has `size` pixels; a smaller image is copied as it is.

    With `area` see `Reduction`; a smaller image is then written as a PNG of its size.

    Raises:
        UserError: the image cannot be read.
        CannotWrite: the copy cannot be written.
    """
    from PIL import Image

    with opened(source) as image:
        width, height = image.size
        kind = "PNG" if area or image.format == "PNG" else "JPEG"
        small = None
        if min(width, height) > size:
            if image.format == "JPEG" and not area:
                least = MARGIN * size / min(width, height)
                image.draft(None, (int(least * width) + 1, int(least * height) + 1))  # type: ignore[arg-type]
            factor = size / min(width, height)
            shape = max(size, round(factor * width)), max(size, round(factor * height))
            small = to_rgb(image).resize(shape, Image.Resampling.BOX if area else Image.Resampling.LANCZOS)
        elif area:
            small = to_rgb(image)
        else:
            image.load()  # whether it is whole
    try:
        with replacing(target) as file:
            if small is not None:
                small.save(file, kind, quality=QUALITY)
            else:
                file.write(Path(source).read_bytes())
    except OSError as error:
        raise CannotWrite(f"{shown(target)}: cannot be written ({error.strerror or error})") from None


def resize_files(pairs: Sequence[tuple[str, str]], size: int, area: bool = False) -> list[str]:
    """Make the copies of (source, target) that are missing or older; return a line for each image that is broken."""
    lines = []
    for source, target in pairs:
        if os.path.exists(target) and os.path.getmtime(target) >= os.path.getmtime(source):
            continue
        try:
            resize_file(source, target, size, area)
        except CannotWrite:
            raise
        except UserError as error:
            lines.append(str(error))
    return lines


def resize_folder(
    sets: ImageSets, target: Path, reduction: Reduction, workers: int, advance: Callable[[int], None]
) -> list[str]:
    """Make the copy of a data set; `advance` hears how many images are dealt with.

    Returns:
        A line for each broken image.
    """
    chosen = [(files, reduction.named(files.moved(sets.root, target.absolute()))) for files in reduction.chosen(sets)]
    resize = partial(resize_files, size=reduction.size, area=reduction.area)
    pool, lines = DecodingPool(workers), []
    try:
        for files, copies in chosen:
            for folder in copies.folders:
                os.makedirs(folder, exist_ok=True)
            if len(files) < len(sets.train if files is chosen[0][0] else sets.test):
                _check_alone(copies)
            for start in range(0, len(files), AT_ONCE):
                index = range(start, min(start + AT_ONCE, len(files)))
                pairs = list(zip(files.paths(index), copies.paths(index), strict=True))
                for done, found in enumerate(pool.map(resize, pairs, PART)):
                    lines += found
                    advance(min(PART, len(pairs) - done * PART))
    except OSError as error:
        raise UserError(f"{shown(error.filename or target)}: {error.strerror}") from None
    finally:
        pool.close()
    for name in EVALUATION_FOLDERS:
        if (sets.root / name / ANNOTATIONS).is_file():
            shutil.copyfile(sets.root / name / ANNOTATIONS, target / name / ANNOTATIONS)
    return lines


def _check_alone(copies: ImageFiles) -> None:
    """Refuse folders with images that are not of a chosen part: they would be trained on, too."""
    for number, folder in enumerate(copies.folders):
        own = {os.fsdecode(name) for name in copies.names[copies.folder == number].tolist()}
        for other in sorted(set(os.listdir(folder)) - own):
            if is_picture(other):
                raise UserError(f"{shown(os.path.join(folder, other))}: not of this choice; choose another target")


def _parser() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(prog="resize_images.py", description=__doc__)
    parser.add_argument("source", type=Path, help="a folder that holds train/<class>/* and val/<class>/*")
    parser.add_argument("target", type=Path, nargs="?", help="where the copy goes (default: <source>-<size>)")
    parser.add_argument("size", type=partial(_count, key="size"), help="size=160: pixels of the shorter side")
    workers, about = workers_for(), "processes (default: one for each core; 0: none)"
    parser.add_argument("--workers", type=partial(_count, least=0), default=workers, help=about)
    parser.add_argument("--area", action="store_true", help="average areas, and write PNG: for very small copies")
    parser.add_argument(
        "--train", type=_count, help="training images of each class, evenly spaced by name (default: all)"
    )
    parser.add_argument("--test", type=_count, help="the same for the evaluation set")
    return parser


@command(lambda: _parser().format_help())
def main(arguments: Sequence[str]) -> int:
    """The command line: 0 done, 1 some images are broken, 2 a mistake of the command, 75 stopped, to be continued."""
    from rich.console import Console
    from rich.progress import Progress

    given = _parser().parse_args(arguments)
    target = given.target or copy_root(given.source.absolute(), given.size)
    reduction = Reduction(given.size, given.area, given.train, given.test)
    console = Console(stderr=True)
    sets = list_images(str(given.source), allow_empty=True)
    total = sum(map(len, reduction.chosen(sets)))
    with (
        last_words(partial(warn, "stopped; the same command goes on from here")),
        Progress(*Progress.get_default_columns(), "{task.completed:,}", console=console) as progress,
    ):
        task = progress.add_task(f"{target.name}", total=total)
        lines = resize_folder(sets, target, reduction, given.workers, partial(progress.advance, task))
    for line in lines:
        print(line)
    print(f"{target}: {total - len(lines):,} of {total:,} images")
    return 1 if lines else 0


def _count(text: str, key: str = "", least: int = 1) -> int:
    """A number from `least` on, which may be written as KEY=N."""
    value = text.removeprefix(f"{key}=") if key else text
    if not value.isdecimal() or int(value) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not {f'{key}=N with N' if key else 'a number'} from {least} on")
    return int(value)
