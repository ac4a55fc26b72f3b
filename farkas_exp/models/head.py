"""The last layer of a network, from features (N, features) to logits (N, classes)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RandomProjection(nn.Module):
    """x -> P x with P drawn from N(0, 1/features) once and never trained (Hardt and Ma 2017, Section 4.1).

    P is a buffer (classes, features), so it is saved with the network and is none of its parameters. The paper gives
    no variance; 1/features gives logits of the variance of the features' mean square.
    """

    weight: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(classes, features) / math.sqrt(features))

    def forward(self, input: Tensor) -> Tensor:
        """(N, features) to (N, classes)."""
        return F.linear(input, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}"
