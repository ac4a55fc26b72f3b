"""The work that a network does."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from farkas_exp.layers.paths import plain_path


@torch.no_grad()
def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Of a forward pass per image, in convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter, plain_path():  # it sees PyTorch's operations only
        model(images[:1])
    return counter.get_total_flops() // 2
