"""Linear residual networks: z^l = (I + W^l) z^(l-1) for l = 1..L, with square layers and no bias.

The network of Section 2 of "Identity matters in deep learning" (Hardt and Ma 2017, Equation 2.1), where the W^l are
called A_l.
"""

import torch
from torch import Tensor, nn

from farkas_exp.layers.residual import BranchEnd, ResidualBlock
from farkas_exp.models.plan import Plan


class LinearResidualLayer(ResidualBlock):
    """z + W z: (N, width) to (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        branch, shortcut = self.terms(self.layer(input), input)
        return shortcut + branch

    def branch_end(self) -> tuple[BranchEnd, nn.Module | None]:
        return self.layer, None


class LinearResidual(nn.Module):
    """(I + W^L) ... (I + W^1) z for rows z: (N, width) to (N, width), with L = `depth`, at least 1."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[LinearResidualLayer(width) for _ in range(depth)])

    def weights(self) -> list[Tensor]:
        """W^1 to W^L, each (width, width), in the order in which they are applied."""
        return [layer.layer.weight for layer in self.layers if isinstance(layer, LinearResidualLayer)]

    def product(self) -> Tensor:
        """The matrix (I + W^L) ... (I + W^1), (width, width), through which gradients flow."""
        first = self.weights()[0]
        return self(torch.eye(first.shape[0], dtype=first.dtype, device=first.device)).T

    def forward(self, input: Tensor) -> Tensor:
        return self.layers(input)


class LinearResidualNet(nn.Module):
    """A linear residual network as wide as an image has values, and a head: a linear classifier of many layers."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        assert plan.options.depth is not None
        inputs = plan.in_channels * plan.image_size**2
        self.hidden = LinearResidual(plan.options.depth, inputs)
        self.classifier = plan.classifier(inputs)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        return self.classifier(self.hidden(images.flatten(1)))
