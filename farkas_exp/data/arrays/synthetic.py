"""Synthetic images for benchmarks and tests: each class is a colour pattern under heavy noise."""

from typing import TYPE_CHECKING

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.base import Arrays, check_least, chosen
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DATASETS.register(
    "synthetic", f"{__name__}:load",
    options={"num_classes": 10, "train_size": 50_000, "test_size": 10_000, "image_size": 32},
)  # fmt: skip


def load(config: DatasetConfig, device: "torch.device") -> Arrays:
    """Images made on `device`, by default of CIFAR-10's sizes; the same for every seed.

    Both sets have the same class patterns. A CPU and a GPU make different images.
    """
    import torch

    options = ("num_classes", "train_size", "test_size", "image_size")
    classes, train_size, test_size, size = (chosen(config, option) for option in options)
    check_least(config, num_classes=(classes, 2), train_size=(train_size, classes), test_size=(test_size, 1))
    seed = derive_seed("synthetic", classes, train_size, test_size, size)
    generator = torch.Generator(device).manual_seed(seed)
    patterns = _random_bytes(classes * size * size * 3, generator).view(classes, size, size, 3)
    train = _images(train_size, patterns, generator)
    test = _images(test_size, patterns, generator)
    names = tuple(f"class {index}" for index in range(classes))
    return Arrays(config.name, names, *train, *test)


def _images(count: int, patterns: "Tensor", generator: "torch.Generator") -> "tuple[Tensor, Tensor]":
    import torch

    classes, *shape = patterns.shape
    labels = torch.arange(count, device=patterns.device) % classes
    images = _random_bytes(count * patterns[0].numel(), generator).view(count, *shape)
    # half pattern and half noise, so that the sum stays a byte
    return (images >> 1).add_((patterns >> 1)[labels]), labels


def _random_bytes(count: int, generator: "torch.Generator") -> "Tensor":
    import torch

    words = torch.randint(
        -(2**31), 2**31, (-(-count // 4),), dtype=torch.int32, generator=generator, device=generator.device
    )
    return words.view(torch.uint8)[:count]
