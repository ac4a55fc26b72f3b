"""Made-up images, for benchmarks and tests of the machinery: each class a colour pattern under heavy noise."""

import torch
from torch import Tensor

from farkas_exp.config import DatasetConfig
from farkas_exp.data.base import Arrays, refuse_options
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed


def load(config: DatasetConfig, device: torch.device) -> Arrays:
    """CIFAR-10's sizes unless the config says otherwise, made on `device`; the same images for every run's seed.

    The two sets have the same class patterns. A CPU and a GPU make different images.
    """
    refuse_options(config, "root", "label", "noise")
    classes = 10 if config.num_classes is None else config.num_classes
    train_size = 50_000 if config.train_size is None else config.train_size
    test_size = 10_000 if config.test_size is None else config.test_size
    size = 32 if config.image_size is None else config.image_size
    limits = (("num_classes", classes, 2), ("train_size", train_size, classes), ("test_size", test_size, 1))
    for name, value, least in limits:
        if value < least:
            raise UserError(f"dataset.{name}: {value} is too few for {config.name}; choose at least {least}")
    seed = derive_seed("synthetic", classes, train_size, test_size, size)
    generator = torch.Generator(device).manual_seed(seed)
    patterns = _random_bytes(classes * size * size * 3, generator).view(classes, size, size, 3)
    train = _images(train_size, patterns, generator)
    test = _images(test_size, patterns, generator)
    names = tuple(f"class {index}" for index in range(classes))
    return Arrays(config.name, names, *train, *test)


def _images(count: int, patterns: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    classes, *shape = patterns.shape
    labels = torch.arange(count, device=patterns.device) % classes
    images = _random_bytes(count * patterns[0].numel(), generator).view(count, *shape)
    # Half of a class's pattern and half noise, so that the sum stays a byte.
    return (images >> 1).add_((patterns >> 1)[labels]), labels


def _random_bytes(count: int, generator: torch.Generator) -> Tensor:
    words = torch.randint(
        -(2**31), 2**31, (-(-count // 4),), dtype=torch.int32, generator=generator, device=generator.device
    )
    return words.view(torch.uint8)[:count]
