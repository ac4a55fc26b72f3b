"""Networks of constant width, plain and Farkas: linear layers (the paper's Section 3.1 and Figure 1) or convolutions.

The separation paper calls them rectangular and gives neither stride, padding, pooling nor head for its convolutions;
here they are 3x3 with stride 1, keep the size of the maps, and end in global average pooling and a linear classifier.
`model.pool` puts 2x2 max pooling behind each layer, as long as there are pixels left; the largest of positive values is
positive, so it keeps the Farkas guarantee.
Its batch norm stands between layer and ReLU: `normalization.position=before`.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from farkas_exp.layers.residual import BranchEnd, ResidualBlock
from farkas_exp.machine.errors import UserError
from farkas_exp.models.kit import Unit
from farkas_exp.models.plan import Plan


class ShortcutUnit(ResidualBlock):
    """A unit that adds its input to its pre-activation: a residual block of one layer and constant width."""

    def __init__(self, unit: Unit) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, input: Tensor) -> Tensor:
        """The block's output, of the input's shape."""
        unit = self.unit
        hidden = unit.layer(input)
        branch, shortcut = self.terms(hidden if unit.norm_after else unit.norm(hidden), input)
        hidden = unit.activation(branch + shortcut)
        return unit.norm(hidden) if unit.norm_after else hidden

    def branch_end(self) -> tuple[BranchEnd, nn.Module | None]:
        layer = self.unit.layer
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        return layer, None if self.unit.norm_after else self.unit.norm


class RectangularNet(nn.Module):
    """Hidden layers of one width, each with activation and normalization, and a plain linear classifier."""

    def __init__(self, hidden: nn.Sequential, width: int, num_classes: int, spatial: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.classifier = nn.Linear(width, num_classes)
        self.spatial = spatial

    @property
    def is_chain(self) -> bool:
        """Whether each layer takes the output of the one before it, and nothing else."""
        return not any(isinstance(unit, ShortcutUnit) for unit in self.hidden)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, num_classes) logits."""
        if self.spatial:
            return self.classifier(self.hidden(images).mean((2, 3)))
        return self.classifier(self.hidden(images.flatten(1)))


def build_rectangular(plan: Plan, spatial: bool) -> RectangularNet:
    """`depth` hidden layers of `width` units (channels) for images of in_channels x image_size x image_size."""
    kit = plan.kit
    options: Any = plan.options
    depth, width, least = options.depth, options.width, kit.least
    if width < least:
        raise UserError(f"model.width: {width} is too narrow for {plan.name}; it must be >= {least}")
    if options.residual and kit.farkas:
        raise UserError(
            f"model.residual: a residual Farkas layer has one output more than its shortcut (Algorithm 2), so"
            f" {plan.name} cannot keep its width; use model.residual=false, or a FarkasNet"
        )
    size = 1 if spatial else plan.image_size**2
    inputs = [plan.in_channels * size] + [width] * (depth - 1)
    units: list[nn.Module] = []
    for number, before in enumerate(inputs):
        layer = kit.conv(before, width, 3) if spatial else kit.linear(before, width)
        unit = Unit(kit, layer, width, spatial=spatial)
        units.append(ShortcutUnit(unit) if options.residual and number > 0 else unit)
        if spatial and options.pool and plan.image_size >> (number + 1):
            units.append(nn.MaxPool2d(2))
    return RectangularNet(nn.Sequential(*units), width, plan.num_classes, spatial)


build_mlp = partial(build_rectangular, spatial=False)
build_rect_conv = partial(build_rectangular, spatial=True)
