"""Data whose images show their numbers, so that a batch tells which images it holds."""

import torch

from farkas_exp.config.schema import AugmentationConfig
from farkas_exp.data.base import Arrays, Batching
from farkas_exp.data.device import DeviceData
from farkas_exp.machine.processes import Processes

AUGMENTATION = AugmentationConfig(crop_padding=1, flip=True, cutout=3)


def numbered(count=50, tests=23) -> Arrays:
    """Images of 4 x 4 pixels whose colour is their number, so that a batch tells which images it holds."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 4, 4, 1).contiguous()
    test = torch.arange(100, 100 + tests, dtype=torch.uint8).view(-1, 1, 1, 1).expand(tests, 4, 4, 1).contiguous()
    return Arrays("numbers", ("even", "odd"), images, torch.arange(count) % 2, test, torch.arange(tests) % 2)


def made(settings=AUGMENTATION, batch_size=8, seed=0, rank=0, world_size=1) -> DeviceData:
    return DeviceData(numbered(), settings, Batching(batch_size, seed, processes=Processes(rank, world_size)))


def same(a, b) -> bool:
    a, b = list(a), list(b)
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )
