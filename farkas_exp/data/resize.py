"""Resize images in memory (`dataset.image_size`)."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from farkas_exp.data.base import Arrays


def resized(arrays: Arrays, size: int) -> Arrays:
    """Both sets at `size` x `size` pixels."""
    images = {key: resize(getattr(arrays, key), size) for key in ("train_images", "test_images")}
    return replace(arrays, **images)


def resize(images: Tensor, size: int) -> Tensor:
    """Images (N, H, W, C) uint8 as (N, size, size, C), antialiased bilinear, rounded to the nearest value."""
    if images.shape[1:3] == (size, size):
        return images
    parts = []
    for part in images.split(4096):  # bounds the float copy
        scaled = F.interpolate(part.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True)
        parts.append(scaled.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous())
    return torch.cat(parts)
