"""Networks of linear layers, plain and Farkas: the paper's motivation, deep and narrow (Section 3.1, Figure 1)."""

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from farkas_exp.errors import UserError
from farkas_exp.models.kit import LayerKit, Unit, build_kit
from farkas_exp.models.options import ModelOptions

DEPTH = 10
WIDTH = 16


class MLP(nn.Module):
    """`depth` hidden layers of `width` units, each with activation and normalization, and a plain linear classifier."""

    def __init__(self, kit: LayerKit, inputs: int, depth: int, width: int, num_classes: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.hidden = nn.Sequential(
            *(Unit(kit, kit.linear(before, width), width, spatial=False) for before in sizes[:-1])
        )
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images, flattened, to (N, num_classes) logits."""
        return self.classifier(self.hidden(images.flatten(1)))


def build_mlp(options: ModelOptions, farkas: bool) -> MLP:
    """A network of linear layers for images of in_channels x image_size x image_size.

    Raises:
        UserError: an option that the network does not have, or a depth or width that is too small.
    """
    options.accept(("depth", "width"))
    depth = DEPTH if options.depth is None else options.depth
    width = WIDTH if options.width is None else options.width
    least = 2 if farkas else 1
    if depth < 1:
        raise UserError(f"model.depth: {depth} is out of range; {options.name} needs at least 1 hidden layer")
    if width < least:
        raise UserError(f"model.width: {width} is too narrow for {options.name}; it must be >= {least}")
    inputs = math.prod((options.in_channels, options.image_size, options.image_size))
    return MLP(build_kit(options, farkas=farkas), inputs, depth, width, options.num_classes)


MLP_MODELS: Mapping[str, Callable[[ModelOptions], nn.Module]] = {
    "mlp": lambda options: build_mlp(options, farkas=False),
    "farkas_mlp": lambda options: build_mlp(options, farkas=True),
}
