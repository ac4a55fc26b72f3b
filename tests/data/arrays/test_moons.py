import pytest
import torch

from farkas_exp.data.arrays.moons import load
from tests.configs import config


def moons(**options):
    made = config(
        model={"name": "mlp", "depth": 2, "width": 4, "blocks": None, "widths": None},
        dataset={"name": "moons", "train_limit": None, **options},
        augmentation={"crop_padding": 0, "flip": False, "cutout": 0},
    )
    return load(made.dataset, torch.device("cpu"))


@pytest.mark.parametrize(
    ("sizes", "train", "test"),
    [
        ({}, [42, 43], [8, 7]),
        ({"train_size": 80, "test_size": 20}, [40, 40], [10, 10]),
        ({"train_size": 2, "test_size": 7}, [1, 1], [3, 4]),
    ],
)
def test_a_stratified_split_has_both_moons_in_both_sets_in_the_same_shares(sizes, train, test):
    arrays = moons(stratify=True, **sizes)
    assert arrays.train_labels.bincount().tolist() == train
    assert arrays.test_labels.bincount().tolist() == test


def test_a_stratified_split_is_of_the_same_points():
    drawn, stratified = moons(), moons(stratify=True)
    assert drawn.train_labels.bincount().tolist() == [38, 47]
    every = [torch.cat([each.train_images, each.test_images]).view(-1, 2) for each in (drawn, stratified)]
    assert sorted(every[0].tolist()) == sorted(every[1].tolist())


def test_moons_have_the_noise_they_are_given():
    def spread(noise):
        arrays = moons(train_size=400, test_size=2, noise=noise)
        x, y = arrays.train_images[arrays.train_labels == 0, 0, 0].unbind(1)
        return float(((x**2 + y**2).sqrt() - 1).std())  # the upper moon is half a unit circle

    assert spread(0.0) < 1e-6
    assert spread(0.3) > 2 * spread(None) > 0.1
    assert spread(None) == spread(0.1)
