"""Decode a part of an image file, at no larger a size than needed.

Only JPEG and PNG are opened, by their content and not by their name: Pillow would pass other formats to other programs
(PostScript to Ghostscript).

libjpeg can decode at 1/2, 1/4 or 1/8 of the size for a fraction of the work (PIL's draft mode). An image is decoded at
the smallest of these that has every pixel that the view needs.
"""

import math
import os
import random
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from farkas_exp.machine.errors import UserError, message_of
from farkas_exp.machine.terminal import shown

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG")
EVALUATION_SCALE = 1.14
"""Evaluation scales an image to 1.14 times the crop's side, and crops its centre (DAWNBench's imagenet18)."""
CROP_TRIES = 10
ASPECTS = (3 / 4, 4 / 3)


class Box(NamedTuple):
    """A part of an image, in its pixels, and whether it is mirrored."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False


class RandomCrop(NamedTuple):
    """A random resized crop and flip (Szegedy et al. 2015): a function of `seed` and the image's size alone.

    The crop has `min_scale` to 1 of the image's area and an aspect ratio of 3/4 to 4/3; it is the centre if ten draws
    do not fit.
    """

    seed: int
    min_scale: float
    flip: bool

    def box(self, width: int, height: int, out_width: int, out_height: int) -> Box:
        """The part of an image of `width` x `height` to decode."""
        draw = random.Random(self.seed).random
        mirrored = draw() < 0.5 and self.flip
        low, high = map(math.log, ASPECTS)
        for _ in range(CROP_TRIES):
            area = width * height * (self.min_scale + (1 - self.min_scale) * draw())
            aspect = math.exp(low + (high - low) * draw())
            cut_width, cut_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < cut_width <= width and 0 < cut_height <= height:
                left = int(draw() * (width - cut_width + 1))
                return Box(left, int(draw() * (height - cut_height + 1)), cut_width, cut_height, mirrored)
        cut_width = min(width, round(height * ASPECTS[1]))
        cut_height = min(height, round(width / ASPECTS[0]))
        return Box((width - cut_width) // 2, (height - cut_height) // 2, cut_width, cut_height, mirrored)


class CentreCrop(NamedTuple):
    """The centre of the image, scaled so that its shorter side is `scale` times the crop's shorter side.

    An image that would not cover a crop of another shape is scaled up until it does.
    """

    scale: float = EVALUATION_SCALE

    def box(self, width: int, height: int, out_width: int, out_height: int) -> Box:
        """The part of an image of `width` x `height` to decode."""
        factor = int(self.scale * min(out_width, out_height)) / min(width, height)
        factor = max(factor, out_width / width, out_height / height)
        cut_width, cut_height = out_width / factor, out_height / factor
        return Box((width - cut_width) / 2, (height - cut_height) / 2, cut_width, cut_height)


View = RandomCrop | CentreCrop


@contextmanager
def opened(path: str | Path, key: str = "dataset.root") -> "Iterator[Image.Image]":
    """Open an image file by its content; an error names the option `key` that led to it.

    Raises:
        UserError: it is neither JPEG nor PNG, no file, or damaged, as far as the block notices.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        # without O_NONBLOCK a pipe in place of the file would block
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise OSError("not a file")
            if facts.st_size == 0:
                raise OSError("the file is empty")
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except Exception as error:  # the decoders raise many types for a broken file
        reason = (error.strerror if isinstance(error, OSError) else None) or message_of(error)
        if isinstance(error, UnidentifiedImageError):
            reason = "its content is neither JPEG nor PNG"
        raise UserError(f"{key}: cannot read the image '{shown(path)}' ({reason}); repair or remove it") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings of odd metadata and of images of more than 90 million pixels (twice that is an error).

    In this thread, and in those that it waits for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decode(
    path: str | Path, height: int, width: int, view: View, draft: bool = True, key: str = "dataset.root"
) -> np.ndarray:
    """The part of an image file in `view`, as RGB bytes (height, width, 3), antialiased.

    Grey, palette, CMYK, 16-bit and transparent images become RGB; the orientation in EXIF is not applied, as in
    torchvision's loader.

    Raises:
        UserError: the file cannot be read as an image.
    """
    with opened(path, key) as image:
        full_width, full_height = image.size
        box = view.box(full_width, full_height, width, height)
        shrink = _shrink(box, height, width) if draft and image.format == "JPEG" else 1
        if shrink > 1:
            image.draft(None, (full_width // shrink, full_height // shrink))  # type: ignore[arg-type]
            # the reduced size is rounded up, so the ratio of the sizes is not the reduction
            assert image.size == (-(-full_width // shrink), -(-full_height // shrink))
        return cut(image, box, height, width, shrink)


def cut(image: "Image.Image", box: Box, height: int, width: int, shrink: int = 1) -> np.ndarray:
    """The part `box` of an image that has been read at 1/`shrink` of its size, as RGB bytes (height, width, 3)."""
    from PIL import Image

    rgb = to_rgb(image)
    corners = (
        max(0.0, box.left / shrink),
        max(0.0, box.top / shrink),
        min(float(rgb.width), (box.left + box.width) / shrink),
        min(float(rgb.height), (box.top + box.height) / shrink),
    )
    pixels = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR, box=corners))
    return pixels[:, ::-1] if box.mirrored else pixels


def _shrink(box: Box, height: int, width: int) -> int:
    """The decoder's largest reduction that leaves the box at least as large as the output."""
    room = min(box.width / width, box.height / height)
    return next((shrink for shrink in (8, 4, 2) if room >= shrink), 1)


def to_rgb(image: "Image.Image") -> "Image.Image":
    """The image with three channels."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, which convert() would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def image_sizes(paths: Sequence[str]) -> list[tuple[int, int]]:
    """(width, height) of each image, from the headers of the files."""
    sizes = []
    for path in paths:
        with opened(path) as image:
            sizes.append(image.size)
    return sizes


def broken_images(paths: Sequence[str]) -> list[str]:
    """A line for each file that cannot be decoded completely."""
    lines = []
    for path in paths:
        try:
            decode(path, 1, 1, CentreCrop(1.0), draft=False)
        except UserError as error:
            lines.append(str(error))
    return lines
