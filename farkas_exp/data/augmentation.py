"""Random crop, horizontal flip and cutout of whole batches, as tensor operations on the device of the images.

All images lie zero-padded in one flat buffer of pixels, with a mirrored copy after them. A crop, flipped or not, is
then a window into that buffer, and a batch of crops is one `index_select` of windows: no index per pixel, no loop
over images. Neighbours share their padding, since a window leaves a row where the next one's padding begins.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from farkas_exp.config.schema import AugmentationConfig


class EpochPlan(NamedTuple):
    """The random choices of one epoch, in the order in which the images come.

    Attributes:
        order: (N,) index of the image.
        crop_y, crop_x: (N,) corner of the crop in the padded image, 0 to 2 * padding.
        flip: (N,) 1 for a mirrored image, else 0.
        center_y, center_x: (N,) centre pixel of the cutout square, in the cropped and flipped image.
    """

    order: Tensor
    crop_y: Tensor
    crop_x: Tensor
    flip: Tensor
    center_y: Tensor
    center_x: Tensor

    def to(self, device: torch.device) -> "EpochPlan":
        """The same plan on `device`, in one transfer."""
        return EpochPlan(*torch.stack(self).to(device))

    def rows(self, index: Tensor) -> "EpochPlan":
        """The images at these places of the epoch."""
        return EpochPlan(*(values[index] for values in self))


def plan_epoch(
    count: int, height: int, width: int, augmentation: AugmentationConfig, generator: torch.Generator
) -> EpochPlan:
    """Draw an epoch's choices for `count` images of size `height` x `width`.

    The order is drawn first: it does not depend on the augmentation.
    """

    def uniform(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    order = torch.randperm(count, generator=generator)
    offsets = 2 * augmentation.crop_padding + 1
    beyond = augmentation.cutout_variant == "authors" and augmentation.cutout % 2 == 0
    crop_y, crop_x = uniform(offsets), uniform(offsets)
    flip = uniform(2) if augmentation.flip else torch.zeros(count, dtype=torch.int64)
    return EpochPlan(order, crop_y, crop_x, flip, uniform(height + beyond), uniform(width + beyond))


@dataclass(frozen=True)
class Windows:
    """Every crop of a set of images, as overlapping windows into one padded buffer.

    Attributes:
        view: (positions, H, W * C), a strided view: window p begins at pixel p of the buffer.
        count: images; a mirrored image comes `count` images after its original.
        padding: pixels on each side.
        row: pixels from one row of an image to the next.
        image: pixels from one image to the next.
    """

    view: Tensor
    count: int
    padding: int
    row: int
    image: int

    def positions(self, index: Tensor, crop_y: Tensor, crop_x: Tensor, flip: Tensor) -> Tensor:
        """The window of each image `index`, cropped at (crop_y, crop_x) of the image, padded and then mirrored."""
        # A crop at x of a padded image, mirrored, is the crop at 2p - x of the mirrored padded image.
        column = torch.where(flip.bool(), 2 * self.padding - crop_x, crop_x)
        return (index + flip * self.count) * self.image + crop_y * self.row + column

    def originals(self, index: Tensor) -> Tensor:
        """The windows of the images `index`, neither shifted nor mirrored."""
        return index * self.image + self.padding * (self.row + 1)


def crop_windows(images: Tensor, padding: int, mirror: bool) -> Windows:
    """Lay out images (N, H, W, C) for cropping with `padding` black pixels, on the device where they are.

    Takes (1 + padding / H) * (1 + padding / W) times their memory, twice that with `mirror`.
    """
    count, height, width, channels = images.shape
    row, image_rows = width + padding, height + padding
    copies = 2 if mirror else 1
    body = copies * count * image_rows * row
    # Behind the last image: the padding that it has no neighbour to share with.
    flat = images.new_zeros(body + (padding + 1) * row, channels)
    body_view = flat[:body].view(copies, count, image_rows, row, channels)
    body_view[0, :, padding:, padding:] = images
    if mirror:
        body_view[1, :, padding:, padding:] = images.flip(2)
    positions = flat.shape[0] - (height - 1) * row - width + 1
    view = flat.as_strided((positions, height, width * channels), (channels, row * channels, 1))
    return Windows(view, count, padding, row, image_rows * row)


@dataclass(frozen=True)
class Squares:
    """Where a cutout square lies, for each row and column that can be its centre: it is the product of the two.

    Attributes:
        inside_y: (H + 1, 1, H) float32, row c is 1 on the rows that a square centred at row c covers, else 0.
        inside_x: (W + 1, 1, W * C) float32, the same for columns, each repeated for the channels.
        outside_y, outside_x: the complements as bytes, 255 for 1, (H + 1, H, 1) and (W + 1, 1, W * C).
    """

    inside_y: Tensor
    inside_x: Tensor
    outside_y: Tensor
    outside_x: Tensor


def cutout_squares(height: int, width: int, channels: int, size: int, device: torch.device) -> Squares:
    """The squares of DeVries and Taylor: `size` pixels from `center - size // 2` on, clipped at the border."""

    def inside(side: int) -> Tensor:
        start = torch.arange(side + 1)[:, None] - size // 2
        position = torch.arange(side)
        return ((position >= start) & (position < start + size)).float().to(device)

    inside_y, inside_x = inside(height), inside(width).repeat_interleave(channels, dim=1)
    outside_y, outside_x = ((255 * (1 - values)).to(torch.uint8) for values in (inside_y, inside_x))
    return Squares(inside_y[:, None], inside_x[:, None], outside_y[:, :, None], outside_x[:, None])


def cutout_(
    values: Tensor, pixels: Tensor, center_y: Tensor, center_x: Tensor, squares: Squares, *, fill_mean: bool,
    whole: bool = False,
) -> Tensor:  # fmt: skip
    """Cut a square out of each image, in place: fill it with its own mean colour, or with zero.

    The mean is that of the clipped square. It comes from sums of whole numbers, exact in float32 for squares up to
    256 x 256 pixels, so it depends neither on the device nor on how images are batched.

    Args:
        values: (N, H, W * C) float32, the pixels' values 0 to 255; overwritten and returned.
        pixels: (N, H, W * C) uint8, the same values; overwritten.
        center_y: (N,) row of the square's centre.
        center_x: (N,) column of the square's centre.
        squares: from `cutout_squares`.
        fill_mean: the square's mean colour, instead of zero.
        whole: cut the mean colour to a whole number.
    """
    count, height, row = values.shape
    inside_y = squares.inside_y.index_select(0, center_y)  # on a CPU much faster than inside_y[center_y]
    inside_x = squares.inside_x.index_select(0, center_x)
    fill = None
    if fill_mean:
        channels = row // (squares.inside_x.shape[0] - 1)
        sums = torch.bmm(inside_y, values).mul_(inside_x).view(count, -1, channels).sum(1, keepdim=True)
        area = inside_y.sum(2, keepdim=True) * (inside_x.sum(2, keepdim=True) / channels)
        colour = sums.div_(area, rounding_mode="floor" if whole else None)
        fill = inside_x.view(count, -1, channels).mul_(colour).view(count, 1, row)
    # Blacken the square by 8-bit logic, then add its colour: bool masks and torch.where take ten times as long.
    outside_y, outside_x = squares.outside_y.index_select(0, center_y), squares.outside_x.index_select(0, center_x)
    pixels.bitwise_and_(torch.bitwise_or(outside_y, outside_x))
    values.copy_(pixels)
    return values if fill is None else values.addcmul_(inside_y.view(count, height, 1), fill)
