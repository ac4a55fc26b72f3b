"""FixUp: a residual network that trains without normalization by its initialization (Zhang et al., 2019).

A block with scalar biases and one scalar multiplier computes

    psi(x + b2b + scale * conv2(psi(conv1(x + b1a) + b1b) + b2a)),

with convolutions without bias of their own. Between stages the first convolution has stride 2, and the shortcut is the
average pooling of size 1 and stride 2 of x + b1a, padded with zero channels. With L blocks, conv1 is drawn from
N(0, 2 / (out k^2) / L), conv2 and the classifier are zero, the biases are zero and the multipliers one, so that the
network starts with zero logits and with blocks that pass a non-negative input on unchanged.

`fixup34` has [5, 5, 5] blocks of widths 16, 32, 64, as the other 34-layer networks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.layers.residual import ResidualBlock, ResidualConv2d, ResidualLayer
from farkas_exp.models.kit import LayerKit
from farkas_exp.models.plan import Plan
from farkas_exp.models.resnet import check_growing, choose_skeleton


class ScalarBias(nn.Module):
    """input + bias, with one trainable number for all of the input; it starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, input: Tensor) -> Tensor:
        return input + self.bias


class ScalarScale(nn.Module):
    """input * scale, with one trainable number for all of the input; it starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.scale


class FixupBlock(ResidualBlock):
    """Two 3x3 convolutions with scalar biases: (N, inputs, H, W) to (N, outputs, ceil(H / stride), ...)."""

    def __init__(self, kit: LayerKit, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = outputs - inputs
        self.bias1a = ScalarBias()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bias1b = ScalarBias()
        self.activation1 = kit.act()
        self.bias2a = ScalarBias()
        self.conv2 = ResidualConv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.scale = ScalarScale()
        self.bias2b = ScalarBias()
        self.activation2 = kit.act()
        self.downsample = nn.AvgPool2d(1, stride) if stride > 1 or self.extra_channels else None

    def forward(self, input: Tensor) -> Tensor:
        shifted = self.bias1a(input)
        hidden = self.bias2a(self.activation1(self.bias1b(self.conv1(shifted))))
        branch = self.bias2b(self.scale(self.conv2.branch(hidden)))
        shortcut = input
        if self.downsample is not None:
            shortcut = F.pad(self.downsample(shifted), (0, 0, 0, 0, 0, self.extra_channels))
        return self.activation2(self.conv2.merge(branch, shortcut))

    def branch_end(self) -> tuple[ResidualLayer, nn.Module | None]:
        """The second convolution; what follows it starts as the identity."""
        return self.conv2, None


class FixupNet(nn.Module):
    """3x3 stem, stages of FixUp blocks, global average pooling, linear classifier; initialized as FixUp asks."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        kit, skeleton = plan.kit, choose_skeleton(plan)
        check_growing(plan, skeleton)
        channels = skeleton.widths[0]
        self.stem = nn.Conv2d(plan.in_channels, channels, 3, 1, 1, bias=False)
        self.stem_bias = ScalarBias()
        self.activation = kit.act()
        self.blocks = nn.Sequential(*(FixupBlock(kit, *sizes) for sizes in skeleton.strided(channels)))
        self.classifier_bias = ScalarBias()
        self.classifier = nn.Linear(skeleton.widths[-1], plan.num_classes)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all parameters anew, by FixUp's rules; the stem keeps PyTorch's default."""
        self.stem.reset_parameters()
        for module in self.modules():
            if isinstance(module, ScalarBias):
                module.bias.zero_()
            elif isinstance(module, ScalarScale):
                module.scale.fill_(1.0)
            elif isinstance(module, FixupBlock):
                fan_out = module.conv1.out_channels * module.conv1.weight[0, 0].numel()
                module.conv1.weight.normal_(0.0, math.sqrt(2.0 / fan_out / len(self.blocks)))
                module.conv2.weight.zero_()
        self.classifier.weight.zero_()
        self.classifier.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        features = self.blocks(self.activation(self.stem_bias(self.stem(images)))).mean((2, 3))
        return self.classifier(self.classifier_bias(features))
