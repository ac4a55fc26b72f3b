"""Build the data of a run."""

import torch

from farkas_exp.config import AugmentationConfig, DatasetConfig, PhasesConfig
from farkas_exp.data.base import Arrays, ImageData, batch_share, say_left_out
from farkas_exp.data.device import DeviceData
from farkas_exp.data.few import debugged
from farkas_exp.data.subset import hold_out, limit_training
from farkas_exp.registry import DATASETS


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
    debug: str | None = None,
) -> ImageData:
    """Load a dataset and prepare it on `device`.

    `train_limit` is applied first; `validation` then holds out a part of the rest. Streamed images are listed now, and
    decoded when a batch is needed.

    Raises:
        UserError: an unknown dataset, missing or broken files, or a batch size, limit or augmentation that
            does not fit the images or the number of processes.
    """
    device = torch.device(device)
    entry = DATASETS[dataset.name]
    if entry.streamed:
        streamed = entry.build(
            dataset, augmentation, phases, batch_size=batch_size, seed=seed, device=device,
            channels_last=channels_last, rank=rank, world_size=world_size,
        )  # fmt: skip
        return debugged(streamed, debug)
    batch_share(batch_size, world_size)
    arrays: Arrays = entry.build(dataset, device)
    if rank == 0:
        say_left_out(arrays.left_out)
    if dataset.train_limit is not None:
        arrays = limit_training(arrays, dataset.train_limit)
    if dataset.validation > 0:
        arrays = hold_out(arrays, dataset.validation)
    in_memory = DeviceData(
        arrays, augmentation, batch_size=batch_size, seed=seed, device=device, normalize=dataset.normalize,
        channels_last=channels_last, rank=rank, world_size=world_size,
    )  # fmt: skip
    return debugged(in_memory, debug)
