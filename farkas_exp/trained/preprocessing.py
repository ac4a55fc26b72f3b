"""From images to what a trained network takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from farkas_exp.data.files.decode import CentreCrop, cut, decode
from farkas_exp.machine.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Images: TypeAlias = "Tensor | np.ndarray | Picture | Sequence[Picture]"
Picture: TypeAlias = "str | PathLike[str] | Image"

ROUNDING = 1e-3
"""By how much floats may leave [0, 1]."""
LUMINANCE = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in grey (ITU-R BT.601), as Pillow has them."""


@dataclass(frozen=True)
class Preprocessing:
    """What the images of a run go through before its network sees them.

    Attributes:
        shape: (C, H, W) of an image.
        mean: what is subtracted from each channel of values in [0, 1]; empty for none.
        std: what each channel is divided by then.
        scale: the image of a file is scaled to this many times the shorter side before its centre is cut out.
        draft: whether a JPEG is read no larger than needed.
        pixels: whether its data are images; otherwise they are points, of any floats.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1.0
    draft: bool = False
    pixels: bool = True

    def __call__(self, images: Images) -> Tensor:
        """The batch (N, C, H, W) of float32 that the network takes.

        Args:
            images: a batch (N, C, H, W) or one image (C, H, W) of the run's size, of bytes or of floats in [0, 1],
                not standardized; or the path of a JPEG or PNG file, or a PIL image, or a sequence of these, of any
                size.

        Raises:
            UserError: they have another shape or other values or are none, or a file cannot be read.
        """
        if isinstance(images, Tensor):
            batch = images
        elif isinstance(images, np.ndarray):
            batch = _tensor(images)
        else:
            pictures = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
            batch = torch.stack([self._pixels(picture) for picture in pictures or [None]])
        batch = batch[None] if batch.dim() == 3 else batch
        if batch.shape[1:] != self.shape:
            wanted, channels = ", ".join(map(str, self.shape)), self.shape[0]
            last = "; its channels are last: permute(0, 3, 1, 2)" * (batch.shape[1:] == (*self.shape[1:], channels))
            raise UserError(f"images: expected the shape (N, {wanted}), got {tuple(batch.shape)}{last}")
        self._check_values(batch)
        return self.standardized(batch.float().div(255) if batch.dtype == torch.uint8 else batch.float())

    def _check_values(self, batch: Tensor) -> None:
        """Refuse images whose values would be misread, such as floats up to 255."""
        if not self.pixels:
            if not batch.is_floating_point():
                raise UserError(f"images: expected points of floats, got {batch.dtype}")
            return
        if batch.dtype != torch.uint8 and not batch.is_floating_point():
            raise UserError(f"images: expected bytes (uint8), or floats in [0, 1], got {batch.dtype}")
        if batch.dtype == torch.uint8 or not batch.numel():
            return
        least, most = (float(value) for value in batch.aminmax())
        if not (least >= -ROUNDING and most <= 1 + ROUNDING):
            raise UserError(
                f"images: expected floats in [0, 1], not standardized, or bytes (uint8); got floats from {least:g} to"
                f" {most:g}"
            )

    def standardized(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) of values in [0, 1], the training set's mean and deviation taken out."""
        if not self.mean:
            return images
        mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std

    def _pixels(self, picture: Any) -> Tensor:
        channels, height, width = self.shape
        if channels not in (1, 3) or not self.pixels:
            raise UserError(f"images: a picture has 1 or 3 channels, and this network takes {channels}; give a tensor")
        view = CentreCrop(self.scale)
        if isinstance(picture, (str, PathLike)):
            made = decode(picture, height, width, view, self.draft, key="images")  # type: ignore[arg-type]
        else:
            from PIL.Image import Image

            if not isinstance(picture, Image):
                got = "none" if picture is None else type(picture).__name__
                raise UserError(f"images: expected one tensor or array, files or PIL images, got {got}")
            columns, rows = picture.size
            made = cut(picture, view.box(columns, rows, width, height), height, width)
        pixels = torch.from_numpy(made.copy()).permute(2, 0, 1)
        return pixels if channels == 3 else grey(pixels[None])[0]


def _tensor(array: np.ndarray) -> Tensor:
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))  # a copy: it may be read-only, or turned
    except TypeError:
        raise UserError(f"images: expected bytes (uint8), or floats in [0, 1], got {array.dtype}") from None


def grey(pixels: Tensor) -> Tensor:
    """Colour images (N, 3, H, W) of bytes as grey ones (N, 1, H, W)."""
    shares = torch.tensor(LUMINANCE, device=pixels.device)
    return torch.einsum("nchw,c->nhw", pixels.float(), shares).round().to(torch.uint8)[:, None]
