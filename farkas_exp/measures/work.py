"""The work that a network does."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from farkas_exp.layers.paths import in_mode, plain_path


@torch.no_grad()
def multiply_adds(model: nn.Module, images: Tensor) -> int:
    """Of a forward pass per image in evaluation mode, in convolutions and matrix products."""
    counter = FlopCounterMode(display=False)
    with counter, plain_path(), in_mode(model, training=False):  # it sees PyTorch's operations only
        model(images[:1])
    return counter.get_total_flops() // 2
