"""ResNet and FarkasNet: one skeleton for plain and Farkas networks (Section 4; Algorithm 2 for the blocks).

Stem; stages of residual blocks; between stages a 1x1 convolution with activation and normalization and then 2x2 average
pooling (no strided convolutions and no projections); global average pooling; a head, by default a plain linear
classifier. In a FarkasNet every layer but the head is a Farkas layer, and block j of a stage works on width + j
channels, so that a stage ends on width + n_blocks.

The CIFAR networks have a 3x3 stem, no max pooling, and an affine-free normalization after the activation:

| layers | blocks | widths |
|---|---|---|
| 18 | [2, 2, 2, 2] basic | 16, 32, 64, 128 |
| 34 | [5, 5, 5] basic | 16, 32, 64 |
| 50 | [3, 4, 6, 3] bottleneck, inner width a quarter | 64, 128, 256, 512 |
| 101 | [3, 4, 23, 3] bottleneck | 64, 128, 256, 512 |

`variant: authors` is what the authors' code does where it differs from the paper: farkasnet18 is [3, 3, 3] with widths
16, 32, 64 (their resnet18 is the one of the table); in farkasnet50 and 101 the last convolution of every block is
initialized as if its fan-in were 9 * channels, six times smaller (weight and bias).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from farkas_exp.layers.residual import ResidualBlock, ResidualLayer
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import LayerKit, ResidualUnit, Unit
from farkas_exp.models.plan import Plan


class Block(ResidualBlock):
    """A block that ends in a `ResidualUnit`: (N, c, H, W) to (N, c + growth, H, W)."""

    last: ResidualUnit

    def branch_end(self) -> tuple[ResidualLayer, nn.Module | None]:
        return self.last.layer, None if self.last.norm_after else self.last.norm


class BasicBlock(Block):
    """Two 3x3 convolutions, the second one with the shortcut."""

    def __init__(self, kit: LayerKit, channels: int) -> None:
        super().__init__()
        self.first = Unit(kit, kit.conv(channels, channels, 3), channels)
        self.last = ResidualUnit(kit, kit.residual(channels, channels, 3), channels + kit.growth)

    def forward(self, input: Tensor) -> Tensor:
        return self.last(self.first(input), input)


class Bottleneck(Block):
    """1x1 down to c // 4, 3x3, and 1x1 back to c with the shortcut."""

    def __init__(self, kit: LayerKit, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.down = Unit(kit, kit.conv(channels, inner, 1), inner)
        self.middle = Unit(kit, kit.conv(inner, inner, 3), inner)
        self.last = ResidualUnit(kit, kit.residual(inner, channels, 1), channels + kit.growth)

    def forward(self, input: Tensor) -> Tensor:
        return self.last(self.middle(self.down(input)), input)


class Transition(nn.Module):
    """A 1x1 convolution with activation and normalization, then 2x2 average pooling.

    An average of non-negative maps has a positive entry wherever one of them has, so pooling keeps the guarantee.
    """

    def __init__(self, kit: LayerKit, inputs: int, outputs: int) -> None:
        super().__init__()
        self.project = Unit(kit, kit.conv(inputs, outputs, 1), outputs)
        self.pool = nn.AvgPool2d(2)

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H // 2, W // 2)."""
        return self.pool(self.project(input))


BlockOf = Callable[[LayerKit, int], Block]
"""Makes a block with the kit, for so many channels."""


@dataclass(frozen=True)
class Skeleton:
    """The blocks per stage and the widths of a network."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]

    def strided(self, channels: int) -> Iterator[tuple[int, int, int]]:
        """Inputs, outputs and stride of each block, for `channels` from the stem and strides between stages."""
        for stage, (count, width) in enumerate(zip(self.blocks, self.widths, strict=True)):
            for number in range(count):
                yield channels, width, 2 if stage > 0 and number == 0 else 1
                channels = width


class ResidualNet(nn.Module):
    """Stem, stages of residual blocks with transitions between them, global average pooling, a head."""

    def __init__(self, plan: Plan, skeleton: Skeleton, block: BlockOf, stem: nn.Module, head_bn: bool = False) -> None:
        super().__init__()
        kit = plan.kit
        self.stem = stem
        stages: list[nn.Module] = []
        channels = skeleton.widths[0]
        for number, (count, width) in enumerate(zip(skeleton.blocks, skeleton.widths, strict=True)):
            layers: list[nn.Module] = [] if number == 0 else [Transition(kit, channels, width)]
            layers += [block(kit, width + j * kit.growth) for j in range(count)]
            stages.append(nn.Sequential(*layers))
            channels = width + count * kit.growth
        self.stages = nn.Sequential(*stages)
        self.classifier = plan.classifier(channels)
        norm = nn.BatchNorm1d(plan.num_classes, affine=False)
        self.head_norm = norm if head_bn else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        return self.head_norm(self.classifier(self.features(images)))

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to the features for the head, (N, F)."""
        return self.stages(self.stem(images)).mean((2, 3))


def build_cifar(plan: Plan, block: BlockOf) -> ResidualNet:
    """A network of the CIFAR skeleton."""
    kit = plan.kit
    skeleton = choose_skeleton(plan, bottlenecks=block is Bottleneck)
    check_image_size(plan, 1, len(skeleton.blocks))
    stem = Unit(kit, kit.conv(plan.in_channels, skeleton.widths[0], 3), skeleton.widths[0])
    net = ResidualNet(plan, skeleton, block, stem, bool(plan.options.head_bn))
    if plan.options.variant == "authors" and block is Bottleneck:
        shrink_last_layers(net)
    return net


build_basic = partial(build_cifar, block=BasicBlock)
build_bottleneck = partial(build_cifar, block=Bottleneck)


def choose_skeleton(plan: Plan, bottlenecks: bool = False) -> Skeleton:
    """The chosen blocks and widths."""
    blocks, widths = plan.options.blocks, plan.options.widths
    assert blocks is not None
    assert widths is not None
    if len(blocks) != len(widths):
        key = "widths" if blocks == plan.network.options["blocks"] else "blocks"
        raise UserError(
            f"model.{key}: {len(blocks)} stages in blocks {list(blocks)} but {len(widths)} in widths {list(widths)};"
            " give both with the same length"
        )
    least = (4 if bottlenecks else 1) * plan.kit.least
    if min(widths) < least:
        raise UserError(f"model.widths: {list(widths)} is too narrow for {plan.name}; each width must be >= {least}")
    return Skeleton(blocks, widths)


def check_image_size(plan: Plan, stem_stride: int, stages: int) -> None:
    """Check that images are large enough for the network's pooling."""
    shrink = stem_stride * 2 ** (stages - 1)
    least = 2 * shrink if plan.kit.normalization.name == "instance" else shrink
    if plan.image_size < least:
        why = " (instance normalization needs more than one pixel a map)" if least > shrink else ""
        raise UserError(
            f"dataset.image_size: {plan.image_size} is too small for {plan.name} with {stages} stages;"
            f" it must be >= {least}{why}, or choose fewer stages (model.blocks, model.widths)"
        )


def check_growing(plan: Plan, skeleton: Skeleton) -> None:
    """Check that widths do not shrink, for a network that pads its shortcuts with zero channels."""
    if list(skeleton.widths) != sorted(skeleton.widths):
        raise UserError(
            f"model.widths: {list(skeleton.widths)} shrinks; {plan.name} pads its shortcuts with zero channels,"
            " so each width must be at least the one before"
        )


def shrink_last_layers(net: nn.Module) -> None:
    """Give the last layer of every bottleneck the authors' initialization: fan-in 9 * channels instead of its own."""
    with torch.no_grad():
        for block in net.modules():
            if isinstance(block, Bottleneck):
                layer, _ = block.branch_end()
                channels, fan_in = layer.weight.shape[0], layer.weight[0].numel()
                for parameter in (layer.weight, layer.bias):
                    assert parameter is not None
                    parameter.mul_(math.sqrt(fan_in / (9 * channels)))
