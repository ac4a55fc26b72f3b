"""The one function that the trainer calls for its batches."""

from collections.abc import Callable

import torch

from farkas_exp.config import AugmentationConfig, DatasetConfig, PhasesConfig
from farkas_exp.data.arrays import cifar, digits, mnist, moons, synthetic
from farkas_exp.data.base import Arrays, ImageData, batch_share, say_left_out
from farkas_exp.data.device import DeviceData
from farkas_exp.data.files import image_folder
from farkas_exp.data.files.names import STREAMED
from farkas_exp.data.files.streamed import StreamedData
from farkas_exp.data.subset import hold_out, limit_training
from farkas_exp.machine.errors import UserError, unknown

DATASETS: dict[str, Callable[[DatasetConfig, torch.device], Arrays]] = {
    "cifar10": cifar.load,
    "cifar100": cifar.load,
    "digits": digits.load,
    "image_folder": image_folder.load,
    "mnist": mnist.load,
    "moons": moons.load,
    "synthetic": synthetic.load,
}
"""Data sets that are loaded into memory as a whole, by name."""


def build_data(
    dataset: DatasetConfig,
    augmentation: AugmentationConfig,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    channels_last: bool = True,
    rank: int = 0,
    world_size: int = 1,
    phases: PhasesConfig = PhasesConfig(),  # noqa: B008 - frozen
) -> ImageData:
    """Load a dataset and make it ready on `device`.

    `train_limit` is applied first, then `validation` holds out a part of what is left. Streamed images are listed, and
    decoded when a batch is asked for.

    Raises:
        UserError: an unknown dataset, an option that it does not have, files that are missing or broken, or a batch
            size, limit or augmentation that does not fit the images, or the number of processes.
    """
    if dataset.name not in (*DATASETS, *STREAMED):
        raise unknown("dataset.name", dataset.name, (*DATASETS, *STREAMED))
    device = torch.device(device)
    if dataset.name in STREAMED:
        return StreamedData(
            dataset, augmentation, phases, batch_size=batch_size, seed=seed, device=device,
            channels_last=channels_last, rank=rank, world_size=world_size,
        )  # fmt: skip
    batch_share(batch_size, world_size)
    _refuse_streaming(dataset, augmentation, phases)
    arrays = DATASETS[dataset.name](dataset, device)
    if rank == 0:
        say_left_out(arrays.left_out)
    if dataset.train_limit is not None:
        arrays = limit_training(arrays, dataset.train_limit)
    if dataset.validation > 0:
        arrays = hold_out(arrays, dataset.validation)
    return DeviceData(
        arrays,
        augmentation,
        batch_size=batch_size,
        seed=seed,
        device=device,
        normalize=dataset.normalize,
        channels_last=channels_last,
        rank=rank,
        world_size=world_size,
    )


def _refuse_streaming(dataset: DatasetConfig, augmentation: AugmentationConfig, phases: PhasesConfig) -> None:
    """Raise a `UserError` for an option of streamed images, which a dataset in memory does not have."""
    given = {
        "phases": bool(phases.schedule),
        "dataset.copies": bool(dataset.copies),
        "dataset.draft": not dataset.draft,
        "augmentation.min_scale": augmentation.min_scale is not None,
    }
    for key, is_set in given.items():
        if is_set:
            raise UserError(f"{key}: {dataset.name} does not have this option; it is for {' and '.join(STREAMED)}")
