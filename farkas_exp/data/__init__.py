"""The datasets, and the one function that the trainer calls for its batches."""

from collections.abc import Callable

import torch

from farkas_exp.config import AugmentationConfig, DatasetConfig
from farkas_exp.data import cifar, digits, image_folder, mnist, moons, synthetic
from farkas_exp.data.base import Arrays, DataInfo, ImageData, batch_share
from farkas_exp.data.device import DeviceData
from farkas_exp.data.subset import hold_out, limit_training
from farkas_exp.errors import unknown

__all__ = ["DATASETS", "DataInfo", "ImageData", "build_data"]

DATASETS: dict[str, Callable[[DatasetConfig, torch.device], Arrays]] = {
    "cifar10": cifar.load,
    "cifar100": cifar.load,
    "digits": digits.load,
    "image_folder": image_folder.load,
    "mnist": mnist.load,
    "moons": moons.load,
    "synthetic": synthetic.load,
}


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
) -> ImageData:
    """Load a dataset and make it ready on `device`.

    `train_limit` is applied first, then `validation` holds out a part of what is left. Where `world_size` processes
    train the run, process `rank` gets its share of every batch of `batch_size` and of the evaluation set.

    Raises:
        UserError: an unknown dataset, an option that it does not have, files that are missing or broken, or a batch
            size, limit or augmentation that does not fit the images, or the number of processes.
    """
    batch_share(batch_size, world_size)
    if dataset.name not in DATASETS:
        raise unknown("dataset.name", dataset.name, DATASETS)
    device = torch.device(device)
    arrays = DATASETS[dataset.name](dataset, device)
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
