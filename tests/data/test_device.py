"""What the trainer relies on: determinism, skipping, completeness, normalization, and no shared randomness."""

import contextlib
import random

import numpy as np
import pytest
import torch

from farkas_exp.config.schema import AugmentationConfig, DatasetConfig
from farkas_exp.data import device
from farkas_exp.data.augmentation import plan_epoch
from farkas_exp.data.base import Arrays, Batching
from farkas_exp.data.build import build_data
from farkas_exp.data.device import DeviceData
from farkas_exp.data.subset import fixed_order
from farkas_exp.machine.errors import UserError
from farkas_exp.machine.seeding import derive_seed
from tests.networks import pretended_gpu
from tests.numbered import AUGMENTATION, made, numbered, same

OFF = AugmentationConfig(crop_padding=0, flip=False, cutout=0)


@contextlib.contextmanager
def no_waiting(place):
    """An error where the program waits for a GPU."""
    if place == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if place == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def numbers(batches) -> list[int]:
    return [round(float(image.max()) * 255) for images, _ in batches for image in images]


def test_an_epoch_is_a_function_of_seed_and_epoch():
    assert same(made().train_batches(3), made().train_batches(3))
    assert not same(made().train_batches(3), made().train_batches(4))
    assert not same(made().train_batches(3), made(seed=1).train_batches(3))
    assert not same(made().train_batches(1), made(seed=1).train_batches(0))


def test_the_choices_of_an_epoch_come_from_a_frozen_stream():
    generator = torch.Generator().manual_seed(derive_seed(5, "train", 3))
    expected, found = plan_epoch(50, 4, 4, AUGMENTATION, generator), made(seed=5).plan(3)
    assert torch.equal(found.order, expected.order)
    assert torch.equal(found.crop_y, expected.crop_y)
    assert torch.equal(found.flip, expected.flip)


@pytest.mark.parametrize("block_bytes", [1, 8 * 16 * 4 * 4, 2**20])
def test_skipping_the_first_batches_leaves_the_remaining_ones_bitwise(block_bytes, monkeypatch):
    whole = list(made().train_batches(2))
    assert len(whole) == made().steps_in(0) == 6
    monkeypatch.setitem(device.BLOCK_BYTES, "cpu", block_bytes)
    for start in range(7):
        assert same(whole[start:], made().train_batches(2, start))


def test_earlier_batches_are_not_overwritten_by_later_ones():
    batches = made().train_batches(0)
    first, _ = next(batches)
    kept = first.clone()
    for images, _ in batches:
        images.zero_()
    assert torch.equal(first, kept)


def test_every_image_comes_at_most_once_an_epoch_and_batches_are_full():
    batches = list(made(OFF).train_batches(0))
    assert [len(labels) for _, labels in batches] == [8] * 6
    seen = numbers(batches)
    assert len(set(seen)) == len(seen) == 48
    assert set(seen) <= set(range(50))
    labels = torch.cat([labels for _, labels in batches])
    assert labels.tolist() == [number % 2 for number in seen]
    assert numbers(made(OFF, batch_size=50).train_batches(0)) != sorted(seen)
    assert sorted(numbers(made(OFF, batch_size=50).train_batches(0))) == list(range(50))


@pytest.mark.parametrize("values", [16, 16 * 5, 16 * 22, 16 * 23, 10**6])
def test_test_batches_hold_every_image_once_in_order(values, monkeypatch):
    monkeypatch.setattr(device, "TEST_BATCH_VALUES", values)
    batches = list(made().test_batches())
    assert numbers(batches) == list(range(100, 123))
    assert torch.cat([labels for _, labels in batches]).tolist() == [i % 2 for i in range(23)]
    assert same(batches, made().test_batches())


def test_the_fixed_batch_is_the_same_for_every_seed_and_mixes_the_classes():
    images, labels = made().fixed_batch(20)
    other, _ = made(seed=5, settings=OFF).fixed_batch(20)
    assert torch.equal(images, other)
    chosen = set(numbers([(images, labels)]))
    assert len(chosen) == 20
    assert chosen != set(range(20))  # the first images of an image folder are all of its first class
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(made().fixed_batch(7)[0], images[:7])
    assert len(made().fixed_batch(1000)[0]) == 50


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format_and_device(channels_last):
    data = build_data(
        DatasetConfig("synthetic", train_size=20, test_size=5, image_size=6),
        AUGMENTATION,
        Batching(4, 0, channels_last=channels_last),
    )
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for images, labels in (next(data.train_batches(0)), next(data.test_batches()), data.fixed_batch(3)):
        assert images.is_contiguous(memory_format=memory_format)
        assert images.shape[1:] == data.info.image_shape == (3, 6, 6)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        assert images.min() >= 0
        assert 0.9 < images.max() <= 1


def test_normalize_gives_mean_zero_and_standard_deviation_one_on_the_training_set():
    data = build_data(
        DatasetConfig("synthetic", train_size=64, test_size=9, image_size=8, normalize=True), OFF, Batching(64, 0)
    )
    assert (data.info.name, len(data.info.mean), len(data.info.std)) == ("synthetic", 3, 3)
    assert all(0.1 < std < 0.5 for std in data.info.std)
    images, _ = next(data.train_batches(0))
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-5)


def test_levels_are_counted_where_the_images_are(monkeypatch):
    """Images made on a GPU: an operation on tensors of two devices would raise here as it does there."""
    with pretended_gpu():
        images = torch.empty(5, 4, 4, 3, dtype=torch.uint8, device="cuda")
        moved = []  # bincount's result has a length that only a real one knows
        monkeypatch.setattr(torch, "bincount", lambda values, minlength: values.new_zeros(minlength, dtype=torch.int64))
        monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: moved.append(tensor.device.type) or 1.0)
        device._standardisation(images)
    assert moved == ["cpu"] * 6


def test_a_constant_channel_survives_normalize():
    source = numbered()
    source.train_images.fill_(7)
    data = DeviceData(source, OFF, Batching(8, 0), normalize=True)
    assert next(data.train_batches(0))[0].abs().max() < 1e-6


def test_no_global_random_state_is_read_or_changed():
    def everything() -> list:
        data = build_data(DatasetConfig("digits"), AUGMENTATION, Batching(64, 0))
        return [*data.train_batches(0), *data.test_batches(), data.fixed_batch(9)]

    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = everything()
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert states[2] == random.getstate()
    torch.manual_seed(2)
    assert same(first, everything())


def test_the_fingerprint_notices_any_changed_pixel_label_and_name():
    def changed(**changes) -> str:
        source = numbered()
        for name, (index, value) in changes.items():
            getattr(source, name)[index] = value
        return device.fingerprint(source)

    prints = [
        changed(),
        changed(train_images=((49, 3, 3, 0), 1)),
        changed(test_images=((0, 0, 0, 0), 1)),
        changed(train_labels=(0, 1)),
        changed(test_labels=(22, 1)),
    ]
    assert len(set(prints)) == len(prints)
    assert changed() == prints[0] == made().info.fingerprint
    assert len(prints[0]) == 16


@pytest.mark.parametrize(
    ("settings", "batch_size", "message"),
    [
        (OFF, 51, "batch_size: 51 is larger than the training set of numbers (50 images); choose at most 50"),
        (AugmentationConfig(crop_padding=4, cutout=0), 8,
         "augmentation.crop_padding: 4 would crop whole images of numbers (4x4 pixels) away;"
         " choose at most 3 (0: off)"),
        (AugmentationConfig(crop_padding=0, cutout=8), 8,
         "augmentation.cutout: 8 would always erase whole images of numbers (4x4 pixels);"
         " choose less than 8 (0: off)"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_the_images_are_named(settings, batch_size, message):
    with pytest.raises(UserError) as error:
        made(settings, batch_size=batch_size)
    assert str(error.value) == message


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("settings", [AUGMENTATION, AugmentationConfig(1, True, 3, "zero"), OFF])
def test_every_device_makes_the_batches_of_a_cpu_without_waiting(settings, normalize, place, monkeypatch):
    """In blocks of one batch there, of all batches here."""
    cpu, there = (DeviceData(numbered(), settings, Batching(8, 0, name), normalize) for name in ("cpu", place))
    expected = list(cpu.train_batches(1))
    monkeypatch.setitem(device.BLOCK_BYTES, place, 1)
    batches = there.train_batches(1)
    received = [next(batches)]  # moves the epoch's choices over, once
    with no_waiting(place):
        received += list(batches)
    for (a, x), (b, y) in zip(expected, received, strict=True):
        assert b.device.type == place
        torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-6, check_stride=False)
        assert torch.equal(x, y.cpu())


def test_points_come_out_the_same_each_time_they_are_evaluated():
    points = torch.randn(12, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 3 + 1
    arrays = Arrays("points", ("a", "b"), points, torch.arange(12) % 2, points[:6].clone(), torch.arange(6) % 2)
    data = DeviceData(arrays, OFF, Batching(4, 0), normalize=True)
    first = [images.clone() for images, _ in data.test_batches()]
    assert same(data.test_batches(), data.test_batches())
    mean, std = points.mean((0, 1, 2)), points.std((0, 1, 2), correction=0)
    torch.testing.assert_close(first[0].flatten(1), ((points[:6] - mean) / std).flatten(1), check_stride=False)


def test_the_fixed_orders_are_frozen_and_each_purpose_has_its_own():
    """What is measured, kept by train_limit and held out is the same in every version and on every machine."""
    assert fixed_order(8, "fixed batch").tolist() == [3, 1, 7, 2, 6, 0, 5, 4]
    orders = {tuple(fixed_order(50, purpose)) for purpose in ("fixed batch", "train_limit", "validation")}
    assert len(orders) == 3
    assert numbers([made(OFF).fixed_batch(50)]) == fixed_order(50, "fixed batch").tolist()
