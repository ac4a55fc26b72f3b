"""scikit-learn's bundled handwritten digits: 8 x 8 grey, 1,797 images, available offline."""

import functools
from importlib.metadata import distribution
from typing import TYPE_CHECKING

import numpy as np

from farkas_exp.config.schema import DatasetConfig
from farkas_exp.data.base import Arrays
from farkas_exp.registry import DATASETS

if TYPE_CHECKING:
    import torch

TEST_PER_CLASS = 36  # 360 of 1,797: a fifth

DATASETS.register("digits", f"{__name__}:load", label="handwritten digits", classes=10, options={"image_size": 8})


def load(config: DatasetConfig, device: "torch.device") -> Arrays:
    """1,437 training and 360 test images (N, 8, 8, 1), the split fixed, the test set exactly balanced."""
    images, labels, test = _read()
    names = tuple(str(digit) for digit in range(10))
    return Arrays(config.name, names, images[~test], labels[~test], images[test], labels[test])


@functools.cache
def _read() -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """All images and labels, and which are for the test; read once, of a text.

    It is the file of `sklearn.datasets.load_digits`, which takes a second to import.
    """
    import torch

    from farkas_exp.data.subset import rank_in_class

    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    pixels = np.rint(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    images, labels = torch.from_numpy(pixels), torch.from_numpy(rows[:, -1].astype(np.int64))
    return images, labels, torch.from_numpy(rank_in_class(labels, "digits split") < TEST_PER_CLASS)
