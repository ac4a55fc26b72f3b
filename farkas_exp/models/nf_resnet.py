"""NF-ResNet on the CIFAR skeleton (Brock et al. 2021a): no normalization, since the variance of every sum is known.

Block l maps x, of the expected variance v, to

    x + beta f(psi(x / sqrt(v))),    of the expected variance v + beta^2,

where psi is the activation and f a 3x3 convolution, the activation, and a 3x3 convolution. Between stages there are the
activation of x / sqrt(v), a 1x1 convolution and 2x2 average pooling, behind which v counts as 1 again. The variances
are those of convolutions that keep the variance of activated maps, `weight=scaled`, and beta = 0.2 and a learned
multiplier of each branch, zero at the start, are `residual=nf`: the parts are chosen by the configuration, and
conf/model/nf_resnet34.yaml chooses them all. The paper adds gradients clipped unit by unit (Brock et al. 2021b):
`optimizer.clip_units`.

In the Farkas network stem, convolutions and ends of branches are Farkas layers. The input
of every activation is the output of such a layer, divided by a positive number: with the cutoff 0 at least one unit is
active everywhere. The variance of the aggregated component of a `sum`, which is that of all the others together, is not
counted.
"""

import math

from torch import Tensor, nn

from farkas_exp.layers.residual import ResidualBlock, ResidualLayer
from farkas_exp.models.kit import LayerKit
from farkas_exp.models.plan import Plan
from farkas_exp.models.resnet import check_image_size, choose_skeleton


class NFBlock(ResidualBlock):
    """Activation and 3x3 convolution, twice, the last one with the shortcut: (N, c, H, W) to (N, c + growth, H, W)."""

    def __init__(self, kit: LayerKit, channels: int) -> None:
        super().__init__()
        self.activation1 = kit.act()
        self.conv1 = kit.conv(channels, channels, 3)
        self.activation2 = kit.act()
        self.conv2 = kit.residual(channels, channels, 3)

    def forward(self, input: Tensor, variance: float = 1.0) -> Tensor:
        """The block, of an input with the expected `variance`."""
        hidden = self.conv1(self.activation1(input / math.sqrt(variance)))
        return self.conv2(self.activation2(hidden), input)

    def variance(self, before: float) -> float:
        """The expected variance behind the block."""
        scaling = self.conv2.scaling
        return scaling.alpha**2 * (before + scaling.beta**2)

    def branch_end(self) -> tuple[ResidualLayer, nn.Module | None]:
        return self.conv2, None


class NFTransition(nn.Module):
    """Activation, 1x1 convolution, 2x2 average pooling: (N, inputs, H, W) to (N, outputs, H // 2, W // 2)."""

    def __init__(self, kit: LayerKit, inputs: int, outputs: int) -> None:
        super().__init__()
        self.activation = kit.act()
        self.project = kit.conv(inputs, outputs, 1)
        self.pool = nn.AvgPool2d(2)

    def forward(self, input: Tensor, variance: float = 1.0) -> Tensor:
        """The transition, of an input with the expected `variance`."""
        return self.pool(self.project(self.activation(input / math.sqrt(variance))))

    def variance(self, before: float) -> float:
        """The expected variance behind it."""
        return 1.0


class NFResNet(nn.Module):
    """Stem, stages of blocks with transitions between them, activation, global average pooling, a head."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        kit, skeleton = plan.kit, choose_skeleton(plan)
        check_image_size(plan, 1, len(skeleton.blocks))
        channels = skeleton.widths[0]
        self.stem = kit.conv(plan.in_channels, channels, 3)
        layers: list[NFBlock | NFTransition] = []
        for number, (count, width) in enumerate(zip(skeleton.blocks, skeleton.widths, strict=True)):
            layers += [NFTransition(kit, channels, width)] if number else []
            layers += [NFBlock(kit, width + j * kit.growth) for j in range(count)]
            channels = width + count * kit.growth
        self.layers = nn.ModuleList(layers)
        self.activation = kit.act()
        self.classifier = plan.classifier(channels)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        maps, variance = self.stem(images), 1.0
        for layer in self.layers:
            assert isinstance(layer, (NFBlock, NFTransition))  # no union: PyTorch 2.6 traces none
            maps, variance = layer(maps, variance), layer.variance(variance)
        return self.classifier(self.activation(maps).mean((2, 3)))
