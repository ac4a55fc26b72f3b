"""The datasets that need no files, the class-balanced parts of a training set, and options that do not fit."""

import dataclasses

import numpy as np
import pytest
import torch

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig
from farkas_exp.data.arrays.moons import make_moons
from farkas_exp.data.base import Arrays, Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.resize import resize
from farkas_exp.data.subset import held_out, hold_out, limit_training, limited
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import DATASETS

OFF = AugmentationConfig(crop_padding=0, flip=False, cutout=0)
CPU = torch.device("cpu")


def build(name: str, batch_size=10, **options):
    return build_data(DatasetConfig(name, **options), OFF, Batching(batch_size, 0))


def load(name: str, **options) -> Arrays:
    return DATASETS[name].build(DatasetConfig(name, **options), CPU)


def test_digits_are_scikit_learns_split_once_for_all():
    from sklearn.datasets import load_digits

    info = build("digits").info
    assert (info.train_size, info.test_size, info.image_shape, info.num_classes) == (1437, 360, (1, 8, 8), 10)
    arrays = load("digits")
    assert torch.bincount(arrays.test_labels).tolist() == [36] * 10
    images = torch.cat([arrays.train_images, arrays.test_images]).flatten(1).double() / 255 * 16
    labels = torch.cat([arrays.train_labels, arrays.test_labels])
    found = sorted((label, *image) for label, image in zip(labels.tolist(), images.round().int().tolist(), strict=True))
    digits = load_digits()
    truth = zip(digits.target.tolist(), digits.data.astype(int).tolist(), strict=True)
    assert found == sorted((label, *image) for label, image in truth)
    assert info.fingerprint == "c77f594c8dde0475"  # the split must never move: runs of one table share it


def test_image_size_resizes():
    assert build("digits", image_size=16).info.image_shape == (1, 16, 16)
    ramp = torch.arange(8, dtype=torch.uint8).mul(20).view(1, 1, 8, 1).expand(2, 8, 8, 1)
    assert resize(ramp, 4)[0, 0, 1:3, 0].tolist() == [50, 90]  # means of neighbouring pairs, away from the border
    assert torch.equal(resize(torch.full((3, 5, 7, 2), 200, dtype=torch.uint8), 9), torch.full((3, 9, 9, 2), 200))


def test_synthetic_has_the_sizes_it_is_given_and_learnable_classes():
    arrays = load("synthetic", train_size=60, test_size=20, num_classes=4, image_size=6)
    assert arrays.train_images.shape == (60, 6, 6, 3)
    assert torch.bincount(arrays.train_labels).tolist() == [15] * 4
    means = torch.stack([arrays.train_images[arrays.train_labels == c].float().mean(0) for c in range(4)]).flatten(1)
    nearest = torch.cdist(arrays.test_images.float().flatten(1), means).argmin(1)
    assert torch.equal(nearest, arrays.test_labels)
    again = load("synthetic", train_size=60, test_size=20, num_classes=4, image_size=6)
    assert torch.equal(arrays.train_images, again.train_images)
    assert not torch.equal(arrays.train_images[:20], arrays.test_images)


def test_moons_are_points_on_two_half_circles():
    data = build("moons", batch_size=85)
    info = data.info
    assert (info.train_size, info.test_size, info.image_shape, info.num_classes) == (85, 15, (2, 1, 1), 2)
    points, labels = make_moons(101, 0.0, torch.Generator().manual_seed(0))
    upper, lower = points[labels == 0], points[labels == 1]
    assert (len(upper), len(lower)) == (50, 51)
    torch.testing.assert_close(upper.norm(dim=1), torch.ones(50, dtype=torch.float64))
    center = torch.tensor([1, 0.5], dtype=torch.float64)
    torch.testing.assert_close((lower - center).norm(dim=1), torch.ones(51, dtype=torch.float64))
    assert upper[:, 1].min() > -1e-9
    assert lower[:, 1].max() < 0.5 + 1e-9


def test_points_are_neither_scaled_nor_augmented():
    arrays = load("moons")
    data = build_data(DatasetConfig("moons"), AugmentationConfig(), Batching(85, 0))
    images, labels = next(data.train_batches(0))
    found = sorted(zip(labels.tolist(), images.flatten(1).tolist(), strict=True))
    assert found == sorted(zip(arrays.train_labels.tolist(), arrays.train_images.flatten(1).tolist(), strict=True))
    assert torch.equal(next(data.test_batches())[0].flatten(1), arrays.test_images.flatten(1))


@pytest.mark.parametrize("limit", [10, 37, 100, 1437])
def test_train_limit_takes_every_class_as_equally_as_it_can(limit):
    arrays = load("digits")
    kept = limit_training(arrays, limit)
    counts = torch.bincount(kept.train_labels, minlength=10)
    assert counts.sum() == limit
    if limit < 1380:  # no class is used up
        assert counts.max() - counts.min() <= 1
    assert torch.equal(kept.test_images, arrays.test_images)
    assert torch.equal(kept.train_images, limit_training(arrays, limit).train_images)


def test_a_smaller_limit_is_a_part_of_a_larger_one():
    arrays = load("digits")
    rows = [{tuple(image) for image in limit_training(arrays, n).train_images.flatten(1).tolist()} for n in (50, 200)]
    assert rows[0] < rows[1]


def test_validation_takes_its_part_of_each_class_and_leaves_the_test_set_alone():
    arrays = load("digits")
    held = hold_out(arrays, 0.2)
    before, after = torch.bincount(arrays.train_labels), torch.bincount(held.test_labels)
    assert ((after - 0.2 * before).abs() <= 0.5).all()
    train, test = (
        {tuple(image) for image in part.flatten(1).tolist()} for part in (held.train_images, held.test_images)
    )
    assert len(train) + len(test) == 1437
    assert not train & test
    assert not test & {tuple(image) for image in arrays.test_images.flatten(1).tolist()}


def test_evaluation_and_info_use_the_held_out_part():
    data = build("digits", validation=0.1, train_limit=500)
    assert (data.info.train_size, data.info.test_size) == (450, 50)
    assert sum(len(labels) for _, labels in data.test_batches()) == 50
    assert data.info.fingerprint != build("digits", train_limit=500).info.fingerprint


def test_limits_do_not_depend_on_the_seed():
    config = DatasetConfig("digits", train_limit=60, validation=0.5)
    prints = {build_data(config, OFF, Batching(10, seed)).info.fingerprint for seed in range(3)}
    assert len(prints) == 1


def test_classes_of_unequal_size():
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 9)
    arrays = Arrays("few", ("a", "b", "c"), torch.zeros(32, 2, 2, 1, dtype=torch.uint8), labels, *[torch.zeros(0)] * 2)
    assert torch.bincount(limit_training(arrays, 20).train_labels).tolist() == [9, 3, 8]
    assert torch.bincount(hold_out(arrays, 0.25).test_labels).tolist() == [5, 1, 2]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "digit"}, "dataset.name: unknown 'digit'; did you mean 'digits'? choose from: "),
        ({"name": "synthetic", "train_size": 9}, "dataset.train_size: 9 is too few for synthetic; choose at least 10"),
        ({"name": "synthetic", "test_size": 0}, "dataset.test_size: 0 is too few for synthetic; choose at least 1"),
        ({"name": "moons", "train_size": 1}, "dataset.train_size: 1 is too few for moons; choose at least 2"),
        ({"name": "digits", "train_limit": 1438},
         "dataset.train_limit: 1438 is larger than the training set of digits (1437 images); choose at most 1437"),
        ({"name": "digits", "train_limit": 9},
         "dataset.train_limit: 9 is fewer than the 10 classes of digits; choose at least 10"),
        ({"name": "digits", "validation": 0.001},
         "dataset.validation: 0.001 of the training set of digits (1437 images) holds nothing out;"
         " choose a larger part"),
        ({"name": "digits", "validation": 0.999},
         "dataset.validation: 0.999 of the training set of digits (1437 images) leaves nothing of some class"
         " to train on; choose a smaller part"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_that_names_the_key(config, message):
    with pytest.raises(UserError) as error:
        build_data(DatasetConfig(**config), OFF, Batching(1, 0))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_info_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        build("digits").info.name = "other"


def test_which_images_are_kept_and_held_out_is_frozen():
    """Another choice would be other data under the same name, in every run that has a part of a training set."""
    labels = torch.arange(24) % 3
    assert limited(labels, 3, 7, "made").tolist() == [4, 9, 11, 15, 17, 18, 19]
    assert np.flatnonzero(held_out(labels, 3, 0.25, "made")).tolist() == [0, 4, 14, 17, 18, 19]
