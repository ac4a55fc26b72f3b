"""Build the data of a run."""

import torch

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig, PhasesConfig
from farkas_exp.data.base import Arrays, Batching, ImageData, batch_share, say_left_out
from farkas_exp.data.device import DeviceData
from farkas_exp.data.few import debugged
from farkas_exp.data.resize import resized
from farkas_exp.data.subset import hold_out, limit_training
from farkas_exp.registry import DATASETS


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
    if batching.processes.is_first:
        say_left_out(arrays.left_out)
    if dataset.image_size is not None:
        arrays = resized(arrays, dataset.image_size)
    if dataset.train_limit is not None:
        arrays = limit_training(arrays, dataset.train_limit)
    if dataset.validation > 0:
        arrays = hold_out(arrays, dataset.validation)
    return debugged(DeviceData(arrays, augmentation, batching, dataset.normalize), debug)
