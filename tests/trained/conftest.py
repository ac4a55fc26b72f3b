"""One trained run for all tests of this room."""

import pytest
import torch
from PIL import Image

from farkas_exp.data.arrays.digits import load as digits
from farkas_exp.runs import open_run
from farkas_exp.training.session import train
from tests.configs import config

NAMES = [str(digit) for digit in range(10)]


def trained(folder, **overrides):
    """The run directory of a run that has been trained."""
    made = config(folder, **overrides)
    with open_run(made).locked() as run:
        train(made, run)
    return run.path


def folder_of_digits(folder, names=NAMES):
    """Some of the test images as files, one folder a class."""
    arrays = digits(config().dataset, torch.device("cpu"))
    for part, images, labels in (
        ("train", arrays.train_images[:100], arrays.train_labels[:100]),
        ("test", arrays.test_images[:100], arrays.test_labels[:100]),
    ):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = folder / part / names[int(label)]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0].numpy()).save(place / f"{number}.png")
    return arrays


@pytest.fixture(scope="session")
def path(tmp_path_factory):
    """A run of one epoch on normalized digits, which has held images out."""
    dataset = {"normalize": True, "validation": 0.25}
    return trained(tmp_path_factory.mktemp("run"), epochs=1, dataset=dataset)
