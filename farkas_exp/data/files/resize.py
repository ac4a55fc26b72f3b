"""Smaller copies of a data set, which decode faster: made in parallel, a whole file or none, only what is missing."""

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from farkas_exp.data.files.copies import copy_root
from farkas_exp.data.files.decode import opened, to_rgb
from farkas_exp.data.files.listing import ANNOTATIONS, list_images
from farkas_exp.data.files.pool import DecodingPool, default_workers
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.files import replacing
from farkas_exp.machine.output import patient, warn
from farkas_exp.machine.terminal import shown

QUALITY = 90
MARGIN = 2
"""A JPEG is read at no less than this many times the copy's size, so that the decoder's own reduction does not show."""
AT_ONCE = 4096
PART = 16


class CannotWrite(UserError):  # noqa: N818 - reads as what happened
    """A copy cannot be written: no fault of its original, and the next one could not be either."""


def resize_file(source: str, target: str, size: int) -> None:
    """Write a copy of an image whose shorter side has `size` pixels; a smaller image is copied as it is.

    Raises:
        UserError: the image cannot be read.
        CannotWrite: the copy cannot be written.
    """
    from PIL import Image

    with opened(source) as image:
        width, height = image.size
        kind = "PNG" if image.format == "PNG" else "JPEG"
        if min(width, height) > size:
            if image.format == "JPEG":
                least = MARGIN * size / min(width, height)
                image.draft(None, (int(least * width) + 1, int(least * height) + 1))  # type: ignore[arg-type]
            factor = size / min(width, height)
            shape = max(size, round(factor * width)), max(size, round(factor * height))
            small = to_rgb(image).resize(shape, Image.Resampling.LANCZOS)
        else:
            image.load()  # whether it is whole
            small = None
    try:
        with replacing(target) as file:
            if small is not None:
                small.save(file, kind, quality=QUALITY)
            else:
                file.write(Path(source).read_bytes())
    except OSError as error:
        raise CannotWrite(f"{shown(target)}: cannot be written ({error.strerror or error})") from None


def resize_files(pairs: Sequence[tuple[str, str]], size: int) -> list[str]:
    """Make the copies of (source, target) that are missing or older; return a line for each image that is broken."""
    lines = []
    for source, target in pairs:
        if os.path.exists(target) and os.path.getmtime(target) >= os.path.getmtime(source):
            continue
        try:
            resize_file(source, target, size)
        except CannotWrite:
            raise
        except UserError as error:
            lines.append(str(error))
    return lines


def resize_folder(source: Path, target: Path, size: int, workers: int, advance: Callable[[int], None]) -> list[str]:
    """Make the copy of a data set; `advance` hears how many images are dealt with.

    Returns:
        A line for each broken image.

    Raises:
        UserError: the source has another layout than expected, or the target cannot be written.
    """
    sets = list_images(str(source), allow_empty=True)
    pool, lines = DecodingPool(workers), []
    try:
        for files in (sets.train, sets.test):
            copies = files.moved(sets.root, target.absolute())
            for folder in copies.folders:
                os.makedirs(folder, exist_ok=True)
            for start in range(0, len(files), AT_ONCE):
                index = range(start, min(start + AT_ONCE, len(files)))
                pairs = list(zip(files.paths(index), copies.paths(index), strict=True))
                for done, found in enumerate(pool.map(partial(resize_files, size=size), pairs, PART)):
                    lines += found
                    advance(min(PART, len(pairs) - done * PART))
    except OSError as error:
        raise UserError(f"{shown(error.filename or target)}: {error.strerror}") from None
    finally:
        pool.close()
    for name in ("val", "test"):
        if (sets.root / name / ANNOTATIONS).is_file():
            shutil.copyfile(sets.root / name / ANNOTATIONS, target / name / ANNOTATIONS)
    return lines


@patient()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0 done, 1 some images are broken, 2 a mistake of the command, 75 stopped, to be continued."""
    from rich.console import Console
    from rich.progress import Progress

    parser = argparse.ArgumentParser(prog="resize_images.py", description=__doc__)
    parser.add_argument("source", type=Path, help="a folder that holds train/<class>/* and val/<class>/*")
    parser.add_argument("target", type=Path, nargs="?", help="where the copy goes (default: <source>-<size>)")
    parser.add_argument("size", type=_key("size"), help="size=160: pixels of the shorter side")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes (default: one for each core)")
    given = parser.parse_args(arguments)
    target = given.target or copy_root(given.source.absolute(), given.size)
    console = Console(stderr=True)
    try:
        sets = list_images(str(given.source), allow_empty=True)
        total = len(sets.train) + len(sets.test)
        with Progress(*Progress.get_default_columns(), "{task.completed:,}", console=console) as progress:
            task = progress.add_task(f"{target.name}", total=total)
            lines = resize_folder(given.source, target, given.size, given.workers, partial(progress.advance, task))
    except UserError as error:
        warn(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        warn("stopped; the same command goes on from here")
        return 75
    for line in lines:
        print(line)
    print(f"{target}: {total - len(lines):,} of {total:,} images")
    return 1 if lines else 0


def _key(name: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        key, equals, value = text.rpartition("=")
        if (equals and key != name) or not value.isdecimal() or int(value) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not {name}=N with N from 1 on")
        return int(value)

    return read
