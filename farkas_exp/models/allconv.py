"""The all-convolutional residual network of "Identity matters in deep learning" (Hardt and Ma 2017, Table 1).

A stem and blocks x + C2(relu(C1 x)) of 3x3 convolutions; no batch norm, dropout or max pooling, and no ReLU behind the
sum. The first convolution of the second and third stage has stride 2; there the shortcut is 2x2 average pooling, and
where the width grows it is filled up with zero channels. Global average pooling and a head follow, in the paper a
random projection that is not trained:

| stem | stage 1 | stage 2 | stage 3 | parameters without biases |
|---|---|---|---|---|
| 3x3, 16 | 9 blocks of 64 | 9 blocks of 128 | 9 blocks of 256 | 13,538,736 |

The paper says 13.5 million (Table 1) and 13.59 million (the text), and nothing of biases. Here there are none unless
`model.bias` is true. The stem has a quarter of the first stage's channels.

In the Farkas network C1 is a Farkas convolution, with the biases that its guarantee needs: at every position of every
image one unit of the block is active. C2 and the stem stay plain, since no activation follows them.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.layers.residual import BranchEnd, ResidualBlock, ResidualConv2d
from farkas_exp.models.kit import LayerKit, Unit
from farkas_exp.models.plan import Plan
from farkas_exp.models.resnet import check_growing, check_image_size, choose_skeleton


class AllConvBlock(ResidualBlock):
    """x + C2(relu(C1 x)): (N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, kit: LayerKit, inputs: int, outputs: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.extra_channels = outputs - inputs
        self.first = Unit(kit, kit.conv(inputs, outputs, 3, stride, bias=bias), outputs)
        self.last = ResidualConv2d(outputs, outputs, 3, 1, 1, bias=bias)
        # ceil_mode: at an odd size the last window is cut off, so that branch and shortcut have the same size
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def shortcut(self, input: Tensor) -> Tensor:
        """The input for the sum: pooled if the branch has a stride, then padded with zero channels."""
        return F.pad(self.pool(input), (0, 0, 0, 0, 0, self.extra_channels))

    def forward(self, input: Tensor) -> Tensor:
        return self.last(self.first(input), self.shortcut(input))

    def branch_end(self) -> tuple[BranchEnd, nn.Module | None]:
        return self.last, None


class AllConvNet(nn.Module):
    """Stem, residual blocks, global average pooling, head; a normalization stands at the activation of each block."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        skeleton = choose_skeleton(plan)
        check_growing(plan, skeleton)
        check_image_size(plan, 1, len(skeleton.blocks))
        bias = bool(plan.options.bias)
        channels = max(1, skeleton.widths[0] // 4)
        self.stem = nn.Conv2d(plan.in_channels, channels, 3, 1, 1, bias=bias)
        self.blocks = nn.Sequential(*(AllConvBlock(plan.kit, *sizes, bias) for sizes in skeleton.strided(channels)))
        self.classifier = plan.classifier(skeleton.widths[-1])

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        return self.classifier(self.blocks(self.stem(images)).mean((2, 3)))
