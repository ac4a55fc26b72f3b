"""The batched augmentation against one image at a time in plain Python, and the edges of its random choices."""

import numpy as np
import pytest
import torch

from farkas_exp.config.schema import AugmentationConfig
from farkas_exp.data.augmentation import crop_windows, cutout_, cutout_squares, plan_epoch
from farkas_exp.data.base import Arrays, Batching
from farkas_exp.data.device import DeviceData

NAMES = ("a", "b")


def arrays(count=40, height=8, width=8, channels=3, seed=0) -> Arrays:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, height, width, channels), generator=generator, dtype=torch.uint8)
    return Arrays("made", NAMES, images, torch.arange(count) % 2, images[:7], torch.arange(7) % 2)


def augment_one(
    image: np.ndarray, settings: AugmentationConfig, crop_y, crop_x, flip, center_y, center_x
) -> np.ndarray:
    """Crop, flip and cutout of one image (H, W, C) of bytes, pixel by pixel, in float64 in [0, 1]."""
    height, width, channels = image.shape
    out = np.zeros((height, width, channels))
    for y in range(height):
        for x in range(width):
            from_y = y + crop_y - settings.crop_padding
            from_x = (width - 1 - x if flip else x) + crop_x - settings.crop_padding
            if 0 <= from_y < height and 0 <= from_x < width:
                out[y, x] = image[from_y, from_x] / 255
    if settings.cutout:
        start_y, start_x = center_y - settings.cutout // 2, center_x - settings.cutout // 2
        inside = [
            (y, x)
            for y in range(start_y, start_y + settings.cutout)
            for x in range(start_x, start_x + settings.cutout)
            if 0 <= y < height and 0 <= x < width
        ]
        mean = sum(out[y, x] for y, x in inside) / len(inside)
        if settings.cutout_variant == "authors":
            mean = np.floor(255 * mean + 1e-9) / 255  # the mean of bytes, written into bytes
        for y, x in inside:
            out[y, x] = mean if settings.cutout_fill == "mean" else 0
    return out


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        (AugmentationConfig(crop_padding=2, flip=True, cutout=4), (8, 8, 3)),
        (AugmentationConfig(crop_padding=1, flip=True, cutout=5), (6, 9, 1)),
        (AugmentationConfig(crop_padding=3, flip=True, cutout=6, cutout_fill="zero"), (7, 5, 2)),
        (AugmentationConfig(crop_padding=2, flip=True, cutout=4, cutout_variant="authors"), (8, 8, 3)),
        (AugmentationConfig(crop_padding=2, flip=True, cutout=3, cutout_variant="authors"), (6, 9, 1)),
        (AugmentationConfig(crop_padding=4, flip=False, cutout=1), (9, 6, 3)),
        (AugmentationConfig(crop_padding=0, flip=True, cutout=11), (6, 6, 3)),
        (AugmentationConfig(crop_padding=2, flip=True, cutout=0), (8, 5, 3)),
        (AugmentationConfig(crop_padding=0, flip=False, cutout=0), (4, 4, 1)),
    ],
)
def test_batches_equal_the_reference_image_by_image(settings, shape, channels_last):
    source = arrays(40, *shape)
    data = DeviceData(source, settings, Batching(8, 3, channels_last=channels_last))
    plan = data.plan(epoch=5)
    images = torch.cat([batch for batch, _ in data.train_batches(5)])
    labels = torch.cat([batch for _, batch in data.train_batches(5)])
    assert images.shape == (40, shape[2], shape[0], shape[1])
    assert images.dtype == torch.float32
    assert labels.tolist() == source.train_labels[plan.order].tolist()
    choices = torch.stack([plan.crop_y, plan.crop_x, plan.flip, plan.center_y, plan.center_x], dim=1).tolist()
    for i, (index, choice) in enumerate(zip(plan.order.tolist(), choices, strict=True)):
        expected = augment_one(source.train_images[index].numpy(), settings, *choice)
        np.testing.assert_allclose(images[i].permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-6)


def test_normalization_comes_after_the_augmentation():
    """Padding and zero-filled squares are black pixels, which normalization moves like any other pixel."""
    settings = AugmentationConfig(crop_padding=3, flip=True, cutout=4, cutout_fill="zero")
    source = arrays()
    plain = DeviceData(source, settings, Batching(8, 0))
    normalized = DeviceData(source, settings, Batching(8, 0), normalize=True)
    pixels = source.train_images.double() / 255
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2), correction=0)
    for (a, _), (b, _) in zip(plain.train_batches(0), normalized.train_batches(0), strict=True):
        torch.testing.assert_close(
            b, ((a - mean.view(3, 1, 1)) / std.view(3, 1, 1)).float(), rtol=0, atol=1e-5, check_stride=False
        )


@pytest.mark.parametrize(("variant", "cutout", "beyond"), [("paper", 16, 0), ("authors", 16, 1), ("authors", 15, 0)])
def test_every_choice_appears_and_none_beyond(variant, cutout, beyond):
    settings = AugmentationConfig(crop_padding=4, flip=True, cutout=cutout, cutout_variant=variant)
    plan = plan_epoch(5000, 32, 30, settings, torch.Generator().manual_seed(0))
    assert sorted(plan.order.tolist()) == list(range(5000))
    for values, count in (
        (plan.crop_y, 9),
        (plan.crop_x, 9),
        (plan.flip, 2),
        (plan.center_y, 32 + beyond),
        (plan.center_x, 30 + beyond),
    ):
        frequency = torch.bincount(values, minlength=count).double()
        assert len(frequency) == count
        # Each is binomial: within five standard deviations of its share.
        assert ((frequency - 5000 / count).abs() < 5 * (5000 / count) ** 0.5).all()


@pytest.mark.parametrize(("centres", "area"), [(32, 196.0), (33, 190.94)])
def test_the_mean_erased_area_is_the_documented_one(centres, area):
    inside = cutout_squares(32, 32, 1, 16, torch.device("cpu")).inside_y.sum((1, 2))[:centres]
    assert float(inside.mean() ** 2) == pytest.approx(area, abs=0.005)


def test_the_choices_are_independent_of_one_another():
    plan = plan_epoch(20000, 32, 32, AugmentationConfig(), torch.Generator().manual_seed(1))
    values = torch.stack(plan).double()
    correlation = torch.corrcoef(values) - torch.eye(len(values))
    assert correlation.abs().max() < 0.03


def test_the_order_does_not_depend_on_the_augmentation():
    plans = [
        plan_epoch(100, 8, 8, settings, torch.Generator().manual_seed(0))
        for settings in (AugmentationConfig(), AugmentationConfig(crop_padding=0, flip=False, cutout=0))
    ]
    assert torch.equal(plans[0].order, plans[1].order)


@pytest.mark.parametrize(
    ("center", "rows", "columns"),
    [((0, 0), (0, 2), (0, 2)), ((0, 7), (0, 2), (5, 8)), ((7, 0), (5, 8), (0, 2)), ((4, 3), (2, 6), (1, 5))],
)
def test_the_square_is_clipped_at_the_border(center, rows, columns):
    """A 4 x 4 square around (0, 0) of an 8 x 8 image keeps 2 x 2 pixels, and its colour is the mean of these."""
    pixels = torch.arange(64, dtype=torch.uint8).view(1, 8, 8)
    expected = pixels.double().clone()
    square = (0, slice(*rows), slice(*columns))
    expected[square] = expected[square].mean()
    y, x = torch.tensor([center[0]]), torch.tensor([center[1]])
    squares = cutout_squares(8, 8, 1, 4, torch.device("cpu"))
    result = cutout_(pixels.float(), pixels.clone(), y, x, squares, fill_mean=True)
    assert torch.equal(result.double(), expected)


@pytest.mark.parametrize("mirror", [False, True])
def test_windows_cover_the_first_and_the_last_pixels(mirror):
    images = arrays(3, 4, 5, 2).train_images
    windows = crop_windows(images, 2, mirror)
    index = torch.arange(3)
    originals = windows.view[windows.originals(index)].view(3, 4, 5, 2)
    assert torch.equal(originals, images)
    corner = torch.full((3,), 4)
    last = windows.view[windows.positions(index, corner, corner, torch.zeros_like(corner))].view(3, 4, 5, 2)
    assert torch.equal(last[:, :2, :3], images[:, 2:, 2:])
    assert last[:, 2:].max() == 0
    assert last[:, :, 3:].max() == 0
    if mirror:
        flipped = windows.view[windows.positions(index, corner, corner, torch.ones_like(corner))].view(3, 4, 5, 2)
        assert torch.equal(flipped, last.flip(2))


def test_autocast_around_the_loop_does_not_round_the_colours():
    settings = AugmentationConfig(crop_padding=1, flip=True, cutout=4)
    data = DeviceData(arrays(), settings, Batching(8, 0))
    plain = [images for images, _ in data.train_batches(0)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [images for images, _ in data.train_batches(0)]
    assert all(torch.equal(a, b) for a, b in zip(plain, inside, strict=True))


def test_the_windows_take_no_more_memory_than_they_say():
    images = arrays(3, 4, 5, 2).train_images
    for mirror, copies in ((False, 1), (True, 2)):
        windows = crop_windows(images, 2, mirror)
        assert windows.view.untyped_storage().nbytes() == 2 * (copies * 3 * 6 * 7 + 3 * 7)
