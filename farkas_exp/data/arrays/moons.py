"""Two interleaved half circles in the plane: points as images of one pixel with two channels."""

import math
from typing import TYPE_CHECKING

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.base import Arrays, check_least, chosen
from farkas_exp.machine.seeding import derive_seed
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DATASETS.register(
    "moons", f"{__name__}:load", label="two moons", pixels=False, classes=2,
    options={"train_size": 85, "test_size": 15, "noise": 0.1, "stratify": False},
)  # fmt: skip


def load(config: DatasetConfig, device: "torch.device") -> Arrays:
    """By default 85 training and 15 test points (N, 1, 1, 2), the same for every seed; neither scaled nor augmented.

    `stratify` splits each moon in the same shares; otherwise the first points of a random order are trained on.
    """
    import torch

    train_size, test_size = chosen(config, "train_size"), chosen(config, "test_size")
    check_least(config, train_size=(train_size, 2), test_size=(test_size, 1))
    generator = torch.Generator().manual_seed(derive_seed("moons", train_size, test_size))
    points, labels = make_moons(train_size + test_size, chosen(config, "noise"), generator)
    images = points.float().view(-1, 1, 1, 2)
    trained = torch.arange(len(labels)) < train_size
    if chosen(config, "stratify"):
        of_upper = round(train_size * int((labels == 0).sum()) / len(labels))
        rank = torch.where(labels == 0, (labels == 0).cumsum(0), (labels == 1).cumsum(0))
        trained = rank <= torch.where(labels == 0, of_upper, train_size - of_upper)
    return Arrays(config.name, ("upper", "lower"), images[trained], labels[trained], images[~trained], labels[~trained])


def make_moons(count: int, noise: float, generator: "torch.Generator") -> "tuple[Tensor, Tensor]":
    """Points (count, 2) in float64 and labels (count,), shuffled: the curves of scikit-learn's `make_moons`.

    The upper moon (label 0) is (cos t, sin t), the lower one (1 - cos t, 1/2 - sin t), for t evenly from 0 to pi.
    """
    import torch

    upper = count // 2
    t0 = torch.linspace(0, math.pi, upper, dtype=torch.float64)
    t1 = torch.linspace(0, math.pi, count - upper, dtype=torch.float64)
    x = torch.cat([t0.cos(), 1 - t1.cos()])
    y = torch.cat([t0.sin(), 0.5 - t1.sin()])
    labels = (torch.arange(count) >= upper).long()
    order = torch.randperm(count, generator=generator)
    points = torch.stack([x, y], dim=1)[order]
    return points + noise * torch.randn(count, 2, dtype=torch.float64, generator=generator), labels[order]
