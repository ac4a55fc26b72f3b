"""DenseNet-40 with growth rate 12 (Huang et al. 2017), plain and Farkas.

A 3x3 stem of 16 channels, three stages of 12 layers (3x3, 12 new channels beside all earlier ones), a transition (1x1
convolution, 2x2 average pooling) between stages, global average pooling, a linear classifier. The convolutions have the
original's shapes. As in all networks here, activation and normalization follow their convolution (in the original they
come first), so a Farkas layer's active unit stays among the channels of every later layer.
`model.blocks` and `model.width` change the layers per stage and the growth rate.
"""

from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import LayerKit, Unit
from farkas_exp.models.plan import Plan
from farkas_exp.models.resnet import Transition, check_image_size

STEM = 16


class DenseLayer(nn.Module):
    """A 3x3 convolution whose activated output is appended to its input: (N, c, H, W) to (N, c + growth, H, W)."""

    def __init__(self, kit: LayerKit, channels: int, growth: int) -> None:
        super().__init__()
        self.unit = Unit(kit, kit.conv(channels, growth, 3), growth)

    def forward(self, input: Tensor) -> Tensor:
        """The input and the new channels."""
        return torch.cat((input, self.unit(input)), 1)


class DenseNet(nn.Module):
    """Stem, dense stages with transitions between them, global average pooling, linear classifier."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        options: Any = plan.options
        kit, blocks, growth = plan.kit, options.blocks, options.width
        if growth < kit.least:
            raise UserError(f"model.width: {growth} is too narrow for {plan.name}; it must be >= {kit.least}")
        check_image_size(plan, 1, len(blocks))
        channels = STEM
        layers: list[nn.Module] = [Unit(kit, kit.conv(plan.in_channels, channels, 3), channels)]
        for stage, count in enumerate(blocks):
            if stage:
                layers.append(Transition(kit, channels, channels))
            for _ in range(count):
                layers.append(DenseLayer(kit, channels, growth))
                channels += growth
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, plan.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        return self.classifier(self.features(images).mean((2, 3)))
