"""Smaller copies of a data set beside it, as scripts/resize_images.py makes them: `<root>-160` for 160 pixels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from farkas_exp.config.schema import DatasetConfig, PhasesConfig
from farkas_exp.data.files.decode import EVALUATION_SCALE
from farkas_exp.data.files.listing import ImageSets, list_images
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.terminal import shown


def copy_for(image_size: int, copies: Iterable[int]) -> int | None:
    """The smallest copy that suffices for evaluation at `image_size`; None for the originals."""
    return min((size for size in copies if size >= int(EVALUATION_SCALE * image_size)), default=None)


def copies_in_use(dataset: DatasetConfig, phases: PhasesConfig) -> list[int]:
    """The copies that a run reads, smallest first."""
    image_sizes = [phase.image_size for phase in phases.schedule] or [dataset.image_size]
    sizes = {copy_for(size, dataset.copies) for size in image_sizes if size is not None}
    return sorted(size for size in sizes if size is not None)


def copy_root(root: Path, size: int) -> Path:
    """The folder of the copy with a shorter side of `size` pixels."""
    return root.with_name(f"{root.name}-{size}")


def list_copy(whole: ImageSets, size: int) -> ImageSets:
    """The files of a copy of `whole`."""
    target = copy_root(whole.root, size)
    command = f"python scripts/resize_images.py {shown(whole.root)} {shown(target)} size={size}"
    if not target.is_dir():
        raise UserError(f"dataset.copies: there is no folder '{shown(target)}'; make it: {command}")
    copy = list_images(str(target))
    for ours, theirs in ((whole.train, copy.train), (whole.test, copy.test)):
        if not (np.array_equal(ours.names, theirs.names) and np.array_equal(ours.labels, theirs.labels)):
            raise UserError(
                f"dataset.copies: '{shown(target)}' has other files than '{shown(whole.root)}' ({len(theirs)} and"
                f" {len(ours)} in one of the sets); complete it: {command}"
            )
    return copy
