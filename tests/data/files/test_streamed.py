"""Streamed images: the same global batches for any number of ranks, each image evaluated once, phases, copies."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig, PhaseConfig, PhasesConfig
from farkas_exp.data.base import Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.files.copies import copy_for
from farkas_exp.data.files.listing import list_images
from farkas_exp.data.files.resize import Reduction, resize_folder
from farkas_exp.data.files.streamed import MEAN, STD, rectangle
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.processes import Processes
from scripts.make_image_folder import make_folder

CROP = AugmentationConfig(crop_padding=0, flip=True, cutout=0)
PHASES = PhasesConfig(
    "test",
    (
        PhaseConfig(until=1, image_size=32, batch_size=12, lr_from=1.0, lr_to=2.0),
        PhaseConfig(until=3, image_size=48, batch_size=8, lr_from=2.0, lr_to=1.0, min_scale=0.5, rectangular=True),
    ),
)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    """Every image of one colour that no other has, so that a crop tells which it is; 29 + 23 images of many shapes."""
    root = tmp_path_factory.mktemp("coloured")
    for split, count, blue in (("train", 29, 0), ("val", 23, 255)):
        for number in range(count):
            folder = root / split / f"class{number % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            shape = (40 + 3 * (number % 7), 40 + 5 * (number % 5))
            Image.new("RGB", shape, (number, 100 + number % 3, blue)).save(folder / f"{number}.png")
    return root


def build(root, phases=PHASES, augmentation=CROP, batch_size=6, seed=0, rank=0, world_size=1, device="cpu", **options):
    config = DatasetConfig("streamed_folder", root=str(root), **{"workers": 0, "cache": False, **options})
    batching = Batching(batch_size, seed, device, processes=Processes(rank, world_size))
    return build_data(config, augmentation, batching, phases)


def numbers(batches):
    """Which image each row is; its label must be that of its class."""
    found = []
    for images, labels in batches:
        colours = (255 * images[:, :, 5, 5]).round().int()
        assert torch.equal(colours[:, 1] - 100, labels.int())
        assert images.dtype == torch.float32
        found += colours[:, 0].tolist()
    return found


def test_an_epoch_has_every_image_at_most_once_in_an_order_of_its_own(coloured):
    data = build(coloured)
    first, other = numbers(data.train_batches(1)), numbers(data.train_batches(2))
    assert len(first) == len(set(first)) == 24 == data.steps_in(1) * 8
    assert first == numbers(build(coloured).train_batches(1))
    assert first != other
    assert first != numbers(build(coloured, seed=1).train_batches(1))
    info = data.info
    assert (info.train_size, info.test_size, info.num_classes, info.image_shape) == (29, 23, 3, (3, 32, 32))
    assert not info.top5


def test_phases_set_batch_and_size(coloured):
    data = build(coloured)
    assert [data.steps_in(epoch) for epoch in (0, 1, 2)] == [2, 3, 3]
    assert next(data.train_batches(0))[0].shape == (12, 3, 32, 32)
    assert next(data.train_batches(1))[0].shape == (8, 3, 48, 48)
    half = build(coloured, PhasesConfig("test", PHASES.schedule, 0.5))
    assert next(half.train_batches(0))[0].shape == (6, 3, 32, 32)
    single = build(coloured, PhasesConfig(), image_size=20)
    assert [images.shape for images, _ in single.train_batches(7)] == [(6, 3, 20, 20)] * 4


def test_an_epoch_begun_in_the_middle_goes_on_with_the_same_batches(coloured):
    whole = list(build(coloured).train_batches(1))
    for start in range(4):
        for (a, x), (b, y) in zip(whole[start:], build(coloured).train_batches(1, start), strict=True):
            assert torch.equal(a, b)
            assert torch.equal(x, y)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one(tmp_path, epoch, world_size):
    make_folder(tmp_path, classes=2, train=13, val=1, size=24)
    whole = list(build(tmp_path).train_batches(epoch))
    ranks = [list(build(tmp_path, rank=r, world_size=world_size).train_batches(epoch)) for r in range(world_size)]
    assert whole
    for step, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([batches[step][0] for batches in ranks]))
        assert torch.equal(labels, torch.cat([batches[step][1] for batches in ranks]))


def test_the_augmentation_of_an_image_belongs_to_its_place_in_the_epoch(tmp_path):
    """Another batch size deals the same crops to other batches."""
    make_folder(tmp_path, classes=2, train=13, val=1, size=24)
    small = torch.cat(
        [images for images, _ in build(tmp_path, PhasesConfig(), batch_size=4, image_size=16).train_batches(3)]
    )
    large = torch.cat(
        [images for images, _ in build(tmp_path, PhasesConfig(), batch_size=6, image_size=16).train_batches(3)]
    )
    assert torch.equal(small[:24], large[:24])


@pytest.mark.parametrize("rectangular", [False, True])
@pytest.mark.parametrize("batch", [1, 4, 7, 23, 29])
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_image_is_evaluated_once_for_any_batch_and_any_number_of_ranks(coloured, rectangular, batch, world_size):
    if batch % world_size:
        batch = batch * world_size if batch * world_size <= 29 else world_size
    phase = PhaseConfig(until=1, image_size=24, batch_size=batch, lr_from=1.0, lr_to=1.0, rectangular=rectangular)
    found = []
    for rank in range(world_size):
        data = build(coloured, PhasesConfig("one", (phase,)), rank=rank, world_size=world_size)
        shapes = [images.shape for images, _ in data.test_batches()]
        assert all(len(shape) == 4 and shape[0] for shape in shapes)
        found += numbers(data.test_batches())
    assert sorted(found) == list(range(23))


def test_rectangular_evaluation_sorts_by_shape_and_keeps_it(coloured):
    batches = list(build(coloured).test_batches(1))
    shapes = [tuple(images.shape[2:]) for images, _ in batches]
    aspects = [width / height for height, width in shapes]
    assert aspects == sorted(aspects)
    assert len(set(shapes)) > 1
    assert all(min(shape) == 48 and max(shape) % 8 == 0 for shape in shapes)
    assert {tuple(images.shape[2:]) for images, _ in build(coloured).test_batches(0)} == {(32, 32)}
    assert [tuple(images.shape[2:]) for images, _ in build(coloured).test_batches()] == shapes, "by default the last"


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [(1.0, (288, 288)), (4 / 3, (288, 384)), (0.75, (384, 288)), (1.02, (288, 288)), (0.5, (576, 288))],
)
def test_rectangles(aspect, shape):
    assert rectangle(aspect, 288) == shape


def test_the_shapes_are_kept_in_the_folder_and_belong_to_its_files(tmp_path):
    make_folder(tmp_path, classes=2, train=8, val=5, size=24)
    first = [images.shape for images, _ in build(tmp_path, cache=True).test_batches()]
    (kept,) = (tmp_path / ".farkas_cache").glob("sizes_*.npz")
    with np.load(kept) as stored:
        key = stored["key"]
        assert stored["array"].shape == (10, 2)
    np.savez(kept, key=key, array=np.ones((10, 2), dtype=np.int32))
    assert [tuple(i.shape[2:]) for i, _ in build(tmp_path, cache=True).test_batches()] == [(48, 48)] * 2, "it is used"
    for damage in (
        lambda: kept.write_bytes(b"torn"),
        lambda: np.savez(kept, key=key, array=np.zeros((10, 2), dtype=np.int32)),
        lambda: np.savez(kept, key="other", array=np.ones((10, 2), dtype=np.int32)),
    ):
        damage()
        assert [images.shape for images, _ in build(tmp_path, cache=True).test_batches()] == first


def test_normalized_inputs_have_imagenets_mean_and_deviation(coloured):
    plain, normalized = build(coloured), build(coloured, normalize=True)
    for (a, _), (b, _) in zip(plain.train_batches(0), normalized.train_batches(0), strict=True):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        torch.testing.assert_close(b, (a - mean) / std)
        assert a.is_contiguous(memory_format=torch.channels_last)


def test_the_fixed_batch_is_the_same_for_every_seed_and_rank(coloured):
    images, labels = build(coloured).fixed_batch(9)
    other, same = build(coloured, seed=3, rank=1, world_size=2).fixed_batch(9)
    assert torch.equal(images, other)
    assert torch.equal(labels, same)
    assert len(build(coloured).fixed_batch(100)[0]) == 29
    assert set(numbers([build(coloured).fixed_batch(29)])) == set(range(29))


def test_train_limit_and_validation_take_parts_of_the_training_set(coloured):
    limited = build(coloured, train_limit=15)
    assert (limited.info.train_size, limited.info.test_size) == (15, 23)
    held = build(coloured, validation=0.2)
    evaluated = list(held.test_batches())
    assert all((images[:, 2] == 0).all() for images, _ in evaluated), "of the training set"
    trained = set(
        numbers(build(coloured, PhasesConfig(), batch_size=1, image_size=16, validation=0.2).train_batches(0))
    )
    assert trained | set(numbers(evaluated)) == set(range(29))
    assert not trained & set(numbers(evaluated))


def test_a_phase_reads_the_smallest_copy_that_is_large_enough(tmp_path):
    assert [copy_for(size, (160, 320)) for size in (128, 141, 142, 224, 288)] == [160, 160, 320, 320, None]
    root = tmp_path / "made"
    make_folder(root, classes=2, train=8, val=3, size=80)
    with pytest.raises(UserError, match=r"dataset.copies: there is no folder '.*made-40'; make it: python scripts/"):
        build(root, copies=(40,))
    resize_folder(list_images(str(root)), tmp_path / "made-40", Reduction(40), 0, lambda done: None)
    data, plain = build(root, copies=(40,)), build(root)
    for (a, _), (b, _) in zip(data.train_batches(1), plain.train_batches(1), strict=True):
        assert torch.equal(a, b), "48 pixels want the originals"
    images, reduced = next(plain.train_batches(0))[0], next(data.train_batches(0))[0]
    assert not torch.equal(images, reduced)
    assert (images - reduced).abs().mean() < 0.1
    (next((tmp_path / "made-40" / "val").glob("*/*"))).unlink()
    with pytest.raises(UserError, match=r"dataset.copies: '.*made-40' has other files than '.*made' \(5 and 6"):
        build(root, copies=(40,))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"phases": PhasesConfig()}, r"dataset.image_size: missing; set it \(for example 224\), or choose phases"),
        ({"phases": PhasesConfig("x", PHASES.schedule, 3.0)},
         r"phases.schedule\[0\].batch_size: 36 is larger than the t"),
        ({"world_size": 5}, r"phases.schedule\[0\].batch_size: 12 cannot be shared equally by 5 processes"),
        ({"phases": PhasesConfig(), "image_size": 8, "batch_size": 30},
         r"^batch_size: 30 is larger than .*at most 29$"),
        ({"train_limit": 30}, r"dataset.train_limit: 30 is larger"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(coloured, given, message):
    with pytest.raises(UserError, match=message):
        build(coloured, **given)


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_every_device_gets_the_batches_of_a_cpu(tmp_path, place):
    make_folder(tmp_path, classes=2, train=30, val=9, size=24)
    for workers in (0, 2):
        cpu, there = build(tmp_path), build(tmp_path, device=place, workers=workers)
        received = [(images.cpu(), labels.cpu()) for images, labels in there.train_batches(1)]
        for (a, x), (b, y) in zip(cpu.train_batches(1), received, strict=True):
            torch.testing.assert_close(a, b)
            assert torch.equal(x, y)
        received = [(images.cpu(), labels.cpu()) for images, labels in there.test_batches()]
        for (a, x), (b, y) in zip(cpu.test_batches(), received, strict=True):
            torch.testing.assert_close(a, b)
            assert torch.equal(x, y)
        there.close()
