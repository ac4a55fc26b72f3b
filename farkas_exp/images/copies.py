"""Smaller copies of a data set beside it, as scripts/resize_images.py makes them: `<root>-160` for 160 pixels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from farkas_exp.errors import UserError
from farkas_exp.images.decode import EVALUATION_SCALE
from farkas_exp.images.listing import ImageSets, list_images


def copy_for(image_size: int, copies: Iterable[int]) -> int | None:
    """The smallest of the copies whose shorter side suffices for evaluation at `image_size`; None for the originals."""
    return min((size for size in copies if size >= int(EVALUATION_SCALE * image_size)), default=None)


def copy_root(root: Path, size: int) -> Path:
    """Where the copy of a folder with a shorter side of `size` pixels is."""
    return root.with_name(f"{root.name}-{size}")


def check_copy(whole: ImageSets, target: Path, size: int) -> None:
    """Whether the copy in `target` has all files of `whole`.

    Raises:
        UserError: it has not.
    """
    command = f"python scripts/resize_images.py {whole.root} {target} size={size}"
    if not target.is_dir():
        raise UserError(f"dataset.copies: there is no folder '{target}'; make it: {command}")
    copy = list_images(str(target))
    for ours, theirs in ((whole.train, copy.train), (whole.test, copy.test)):
        if not (np.array_equal(ours.names, theirs.names) and np.array_equal(ours.labels, theirs.labels)):
            raise UserError(
                f"dataset.copies: '{target}' has not the same files as '{whole.root}' ({len(theirs)} and {len(ours)} in"
                f" one of the sets); complete it: {command}"
            )
