"""Class-balanced parts of a training set: `dataset.train_limit` and `dataset.validation`.

They depend on the labels alone: every seed of an experiment sees the same images.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from farkas_exp.data.base import Arrays, check_enough
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed


def fixed_order(count: int, purpose: str) -> np.ndarray:
    """A shuffled order (count,), the same on every machine: RandomState's stream never changes."""
    return np.random.RandomState(derive_seed("fixed order", purpose) % 2**32).permutation(count)


def rank_in_class(labels: Tensor, purpose: str) -> np.ndarray:
    """(N,) how many images of its own class come before each image, in the fixed order of `purpose`."""
    order = fixed_order(len(labels), purpose)
    shuffled = labels.cpu().numpy()[order]
    by_class = np.argsort(shuffled, kind="stable")
    starts = np.searchsorted(shuffled[by_class], shuffled[by_class])
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order[by_class]] = np.arange(len(labels)) - starts
    return rank


def limit_training(arrays: Arrays, limit: int) -> Arrays:
    """Keep `limit` training images, spread over the classes as equally as possible."""
    return _keep(arrays, limited(arrays.train_labels, len(arrays.class_names), limit, arrays.name))


def limited(labels: Tensor, classes: int, limit: int, name: str) -> np.ndarray:
    """The indices (limit,), in their order, of the images that `limit_training` keeps."""
    check_enough("dataset.train_limit", limit, len(labels), name)
    if limit < classes:
        raise UserError(
            f"dataset.train_limit: {limit} is fewer than the {classes} classes of {name}; choose at least {classes}"
        )
    rank = rank_in_class(labels, "train_limit")
    # one image of each class, then a second one of each, and so on
    return np.sort(np.argsort(rank * classes + labels.cpu().numpy(), kind="stable")[:limit])


def hold_out(arrays: Arrays, fraction: float) -> Arrays:
    """Replace the test set by `fraction` of each class, held out of the training set."""
    held = held_out(arrays.train_labels, len(arrays.class_names), fraction, arrays.name)
    index = torch.from_numpy(np.flatnonzero(held)).to(arrays.train_images.device)
    test_images, test_labels = arrays.train_images[index], arrays.train_labels[index]
    kept = _keep(arrays, np.flatnonzero(~held))
    return dataclasses.replace(kept, test_images=test_images, test_labels=test_labels)


def held_out(labels: Tensor, classes: int, fraction: float, name: str) -> np.ndarray:
    """(N,) whether `hold_out` takes an image out of the training set."""
    counts = np.bincount(labels.cpu().numpy(), minlength=classes)
    held_counts = np.floor(fraction * counts + 0.5).astype(np.int64)
    nothing = held_counts.sum() == 0
    if nothing or (held_counts >= np.maximum(counts, 1)).any():
        what, part = (
            ("holds nothing out", "larger") if nothing else ("leaves nothing of some class to train on", "smaller")
        )
        raise UserError(
            f"dataset.validation: {fraction:g} of the training set of {name} ({len(labels)} images) {what};"
            f" choose a {part} part"
        )
    return rank_in_class(labels, "validation") < held_counts[labels.cpu().numpy()]


def _keep(arrays: Arrays, index: np.ndarray) -> Arrays:
    kept = torch.from_numpy(index).to(arrays.train_images.device)
    return dataclasses.replace(arrays, train_images=arrays.train_images[kept], train_labels=arrays.train_labels[kept])
