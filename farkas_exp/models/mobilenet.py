"""MobileNetV2 (Sandler et al. 2018): torchvision's, without the strides of its first stages, for small images.

At 32x32 pixels the original's five strides would leave one pixel; like the usual CIFAR editions this one strides three
times, so the last maps have 4x4. There is no Farkas edition: the bottlenecks are linear, and every other convolution is
depthwise, where an aggregated channel would mix what the network keeps apart.
"""

from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.models.plan import Plan

STAGES = (
    # expansion, channels, blocks, stride
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class _ClippedActivation(Activation):
    """The activation cut off at 6, as in MobileNetV2."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(max=6)


def build_mobilenet(plan: Plan) -> nn.Module:
    """MobileNetV2 with the normalization of the options between convolution and activation."""
    from torchvision.models.mobilenetv2 import MobileNetV2  # takes a second to import

    kit = plan.kit
    net = MobileNetV2(
        plan.num_classes,
        inverted_residual_setting=[list(stage) for stage in STAGES],
        norm_layer=lambda channels: kit.norm(channels),
        dropout=0.0,
    )
    stem = net.features[0][0]  # type: ignore[index]
    net.features[0][0] = nn.Conv2d(plan.in_channels, stem.out_channels, 3, 1, 1, bias=False)  # type: ignore[index]
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _ClippedActivation(kit.activation.name, kit.activation.cutoff))
            elif isinstance(child, nn.Conv2d) and child.bias is None and kit.normalization.name == "none":
                child.bias = nn.Parameter(child.weight.new_zeros(child.out_channels))
    return net
