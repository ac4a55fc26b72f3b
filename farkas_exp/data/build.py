"""Build the data of a run."""

import torch

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig, PhasesConfig
from farkas_exp.data.base import Arrays, Batching, ImageData, batch_share, say_left_out
from farkas_exp.data.device import DeviceData
from farkas_exp.data.few import debugged
from farkas_exp.data.resize import resized
from farkas_exp.data.subset import hold_out, limit_training
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS, Dataset


def build_data(
    dataset: DatasetConfig,
    augmentation: AugmentationConfig,
    batching: Batching,
    phases: PhasesConfig = PhasesConfig(),  # noqa: B008 - frozen
    debug: str | None = None,
) -> ImageData:
    """Load a dataset and prepare it on the device of its batches.

    `train_limit` is applied first; `validation` then holds out a part of the rest. Streamed images are listed now, and
    decoded when a batch is needed.

    Raises:
        UserError: an unknown dataset, missing or broken files, or a batch size, limit or augmentation that
            does not fit the images or the number of processes.
    """
    entry = DATASETS[dataset.name]
    if entry.streamed:
        return debugged(entry.build(dataset, augmentation, batching, phases), debug)
    batch_share(batching.size, batching.processes.world_size)
    arrays: Arrays = entry.build(dataset, torch.device(batching.device))
    _check(arrays, entry)
    if batching.processes.is_first:
        say_left_out(arrays.left_out)
    if dataset.image_size is not None:
        arrays = resized(arrays, dataset.image_size)
    if dataset.train_limit is not None:
        arrays = limit_training(arrays, dataset.train_limit)
    if dataset.validation > 0:
        arrays = hold_out(arrays, dataset.validation)
    return debugged(DeviceData(arrays, augmentation, batching, dataset.normalize), debug)


def _check(arrays: Arrays, entry: Dataset) -> None:
    """Refuse what a loader, for example another package's, must not return (`Arrays`)."""

    def require(right: object, expected: str) -> None:
        if not right:
            raise UserError(f"dataset.name: {entry.name}: its loader has to return {expected}")

    require(isinstance(arrays, Arrays), f"Arrays, not {type(arrays).__name__}")
    names, dtype = arrays.class_names, torch.uint8 if entry.pixels else torch.float32
    texts = all(isinstance(name, str) for name in names)
    require(texts and len(set(names)) == len(names) > 1, f"two or more classes of different names, not {names}")
    require(entry.classes in (None, len(names)), f"{entry.classes} classes, as registered, not {names}")
    sets = {"train": (arrays.train_images, arrays.train_labels), "test": (arrays.test_images, arrays.test_labels)}
    for name, (images, labels) in sets.items():
        require(
            images.ndim == 4 and images.dtype == dtype and images.shape[1:] == arrays.train_images.shape[1:],
            f"{name} images (N, H, W, C) of one size and {dtype}, not {tuple(images.shape)} of {images.dtype}",
        )
        require(
            labels.shape == images.shape[:1] and len(labels) and labels.dtype == torch.int64,
            f"an int64 label for each {name} image, not {tuple(labels.shape)} of {labels.dtype} for {len(images)}",
        )
        low, high = int(labels.min()), int(labels.max())
        require(low >= 0 and high < len(names), f"{name} labels from 0 to {len(names) - 1}, not {low} to {high}")
        require(entry.pixels or images.isfinite().all(), f"{name} points that are finite")
