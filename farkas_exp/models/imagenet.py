"""The ImageNet networks: ResNet v1 as in torchvision, and FarkasNet (Table 3).

| layers | blocks |
|---|---|
| 50 | [3, 4, 6, 3] |
| 101 | [3, 4, 23, 3] |
| 152 | [3, 8, 36, 3] |

Both have bottlenecks of widths 256, 512, 1024, 2048 (inner width a quarter). `resnet*_imagenet` has torchvision's
parameter names, so that its state dicts load, and equal outputs for equal weights: the stride is in the 3x3
convolution, and an affine normalization stands before the activation. Where no normalization follows a convolution
directly (normalization none, or position after), the convolution has a bias. With position after, the projection of the
shortcut, which no activation follows, is not normalized.

The paper names its ImageNet setting only in part (batch norm, mean aggregation, DAWNBench's training code).
`farkasnet*_imagenet` settles the rest like this, unless `model.downsample` says otherwise:

- Stem: a 7x7 Farkas convolution of stride 2 to 64 channels, activation, normalization, and 3x3 max pooling of stride 2.
  A maximum of non-negative maps is positive wherever one of them is, so pooling keeps the guarantee.
- A 1x1 Farkas convolution with activation and normalization takes the 64 channels to 256, before the first stage and
  without pooling: as the shortcuts have no projection, a stage starts on its own width.
- Between stages and in the blocks: as on CIFAR, a 1x1 Farkas convolution and 2x2 average pooling, no projections, and
  one channel more after every block.
- The normalization stands after the activation, as in Algorithms 1 and 2 (before it, the guarantee is lost), and is
  affine, as in DAWNBench's code and as the plain network's is; `normalization.affine=false` gives the CIFAR networks'.
- The aggregation is `sum` unless asked otherwise, as in the other networks; Table 3 has aggregation=mean.

`model.downsample` is how images are halved, in either kind of network: `conv` as in torchvision (a strided 3x3
convolution and a strided 1x1 projection of the shortcut; the default of resnet*_imagenet), `pool` as on CIFAR (a 1x1
convolution and average pooling, no projections; the default of farkasnet*_imagenet). A FarkasNet with `conv` keeps the
guarantee: its projections are plain convolutions on the shortcut, and the aggregation covers the whole sum.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.residual import ResidualBlock, ResidualConv2d, ResidualLayer
from farkas_exp.layers.standardization import Standardizable
from farkas_exp.models.kit import LayerKit, Unit
from farkas_exp.models.plan import Plan
from farkas_exp.models.resnet import Bottleneck, ResidualNet, Skeleton, check_image_size, choose_skeleton


def _needs_bias(kit: LayerKit) -> bool:
    """Whether no normalization follows a convolution directly and so cancels its bias."""
    return kit.normalization.name == "none" or kit.norm_after


def _conv(kit: LayerKit, inputs: int, outputs: int, kernel_size: int, stride: int = 1) -> nn.Module:
    """A convolution before an activation; a Farkas layer always has a bias."""
    if kit.farkas:
        return kit.conv(inputs, outputs, kernel_size, stride)
    return nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=_needs_bias(kit))


class Projection(Standardizable, nn.Conv2d):
    """A strided 1x1 convolution without padding."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, ceil(H / stride), ceil(W / stride))."""
        if self.in_channels >= 16:
            return self._conv_forward(input, self.used_weight(), self.bias)
        # On a CPU, PyTorch's own writes past a buffer in the weight's gradient (uxlfoundation/oneDNN#6035).
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], self.used_weight(), self.bias)


class ProjectionBottleneck(ResidualBlock):
    """ResNet v1's bottleneck: (N, inputs, H, W) to (N, outputs, ceil(H / stride), ...), named as in torchvision.

    The shortcut is a strided 1x1 projection where the shape changes. With Farkas layers one channel is appended.
    """

    def __init__(self, kit: LayerKit, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.norm_after = kit.norm_after
        self.conv1 = _conv(kit, inputs, inner, 1)
        self.bn1 = kit.norm(inner)
        self.relu1 = kit.act()
        self.conv2 = _conv(kit, inner, inner, 3, stride)
        self.bn2 = kit.norm(inner)
        self.relu2 = kit.act()
        plain = partial(ResidualConv2d, bias=_needs_bias(kit))
        self.conv3: ResidualLayer = (kit.residual if kit.appends else plain)(inner, outputs, 1)
        self.bn3 = kit.norm(outputs + kit.growth)
        self.relu3 = kit.act()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection: list[nn.Module] = [Projection(inputs, outputs, 1, stride, bias=_needs_bias(kit))]
            if not self.norm_after:
                projection.append(kit.norm(outputs))
            self.downsample = nn.Sequential(*projection)

    def forward(self, input: Tensor) -> Tensor:
        hidden = _activate(self.conv1(input), self.bn1, self.relu1, self.norm_after)
        hidden = _activate(self.conv2(hidden), self.bn2, self.relu2, self.norm_after)
        shortcut = self.downsample(input)
        if self.norm_after:
            return self.bn3(self.conv3.activate(hidden, shortcut, self.relu3))
        return self.relu3(self.conv3.merge(self.bn3(self.conv3.branch(hidden)), shortcut))

    def branch_end(self) -> tuple[ResidualLayer, nn.Module | None]:
        return self.conv3, None if self.norm_after else self.bn3

    def projection(self) -> nn.Module:
        """The 1x1 convolution, if the shape changes."""
        return self.downsample


def _activate(hidden: Tensor, norm: nn.Module, activation: Activation, norm_after: bool) -> Tensor:
    """Activation and normalization, in the given order."""
    return norm(activation(hidden)) if norm_after else activation(norm(hidden))


class ImageNetResNet(nn.Module):
    """ResNet v1 with bottlenecks; parameter names and outputs are torchvision's.

    With Farkas layers every block appends a channel, as in Algorithm 2, and each stage starts on its own width.
    """

    def __init__(self, kit: LayerKit, skeleton: Skeleton, in_channels: int, num_classes: int) -> None:
        super().__init__()
        channels = skeleton.widths[0] // 4
        self.norm_after = kit.norm_after
        self.conv1 = _conv(kit, in_channels, channels, 7, 2)
        self.bn1 = kit.norm(channels)
        self.relu = kit.act()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages = len(skeleton.blocks)
        for stage, (count, width) in enumerate(zip(skeleton.blocks, skeleton.widths, strict=True), start=1):
            blocks: list[nn.Module] = []
            for number in range(count):
                stride = 2 if stage > 1 and number == 0 else 1
                blocks.append(ProjectionBottleneck(kit, channels, width + number * kit.growth, stride))
                channels = width + (number + 1) * kit.growth
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        features = self.maxpool(_activate(self.conv1(images), self.bn1, self.relu, self.norm_after))
        for stage in range(1, self.stages + 1):
            features = self.get_submodule(f"layer{stage}")(features)
        return self.fc(features.mean((2, 3)))


def build_imagenet(plan: Plan) -> nn.Module:
    """The plain network as in torchvision, or the FarkasNet for large images; `downsample` as the options say."""
    kit, downsample = plan.kit, plan.options.downsample
    skeleton = choose_skeleton(plan, bottlenecks=True)
    check_image_size(plan, 4, len(skeleton.blocks))
    if downsample == "conv":
        return ImageNetResNet(kit, skeleton, plan.in_channels, plan.num_classes)
    width = skeleton.widths[0]
    stem = nn.Sequential(
        Unit(kit, kit.conv(plan.in_channels, width // 4, 7, stride=2), width // 4),
        nn.MaxPool2d(3, 2, 1),
        Unit(kit, kit.conv(width // 4, width, 1), width),
    )
    return ResidualNet(plan, skeleton, Bottleneck, stem)
