import dataclasses

import pytest

from farkas_exp.config import Config, parse
from farkas_exp.config.identity import deciding_values, identify
from tests.configs import config

PAPER = {"model": {"name": "farkasnet34"}, "lr": {"value": 0.01}, "dataset": {"name": "cifar10"}}


def test_known_identities_are_frozen():
    """A change of these hashes orphans every run that anyone has: it needs a new identity.SCHEMA."""
    known = {
        "plain": (parse({**PAPER, "model": {"name": "resnet18"}}), "7315b1fe507c"),
        "farkas": (parse(PAPER), "e8d07277d419"),
        "batch, large": (parse({**PAPER, "normalization": {"name": "batch"}, "lr": {"value": 0.1}}), "ce86922469fd"),
        "everything": (config(epochs=7, precision="bf16", init={"name": "kaiming", "last_scale": 0.5}), "172945aaf232"),
    }
    assert {name: identify(made).hash for name, (made, _) in known.items()} == {
        name: frozen for name, (_, frozen) in known.items()
    }


def test_what_does_not_decide_the_numbers_is_left_out():
    """What does is in `test_options.py`, which trains with every key."""
    elsewhere = config(
        "elsewhere", seed=5, device="cuda", progress="live", experiment="table1", arm="farkas", retry_failed=True,
        wandb={"mode": "online", "project": "other"}, checkpoint={"every_epochs": 10}, diagnostics={"epochs": [0, 5]},
        dataset={"name": "cifar10", "root": "/elsewhere"},
    )  # fmt: skip
    assert identify(elsewhere) == identify(config(dataset={"name": "cifar10"}))


def test_a_value_at_its_default_is_left_out_so_a_new_option_moves_no_run():
    @dataclasses.dataclass(frozen=True)
    class Extended(Config):
        new_option: bool = False

    made = config()
    parts = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    assert deciding_values(Extended(**parts)) == deciding_values(made)
    assert deciding_values(Extended(**parts, new_option=True)) != deciding_values(made)


def test_a_slug_is_safe_as_a_folder_name():
    augmentation = {"crop_padding": 0, "cutout": 0}
    folder = {"name": "streamed_folder", "label": "my images/2026 ü", "train_limit": None}
    slug = identify(config(dataset=folder, augmentation=augmentation)).slug
    assert "/" not in slug
    assert " " not in slug
    long = identify(config(dataset={**folder, "label": "ü" * 500}, augmentation=augmentation)).folder
    assert len(long.encode()) <= 255


@pytest.mark.parametrize("label", ["é" * 150, "x" + "é" * 150])
def test_a_long_slug_is_cut_between_characters(label):
    augmentation = {"crop_padding": 0, "cutout": 0}
    slug = identify(config(dataset={"name": "image_folder", "label": label}, augmentation=augmentation)).slug
    assert 198 < len(slug.encode()) <= 200


def test_a_slug_tells_what_people_look_for():
    plain = {"model": {"name": "resnet18"}}
    assert identify(config(**plain, normalization={"name": "none"})).slug == "resnet18-none-digits-lr0.05-e3"
    assert identify(config(init={"name": "kaiming"})).slug == "farkasnet18-batch-sum-kaiming-digits-lr0.05-e3"
    made = config(regularizer={"name": "norm_bias", "strength": 0.1}, head={"name": "random_projection"})
    assert identify(made).slug == "farkasnet18-batch-sum-random_projection-norm_bias-digits-lr0.05-e3"
    labelled = identify(config(dataset={"name": "image_folder", "label": "my images/2026", "train_limit": None}))
    assert "-my_images_2026-" in labelled.slug
