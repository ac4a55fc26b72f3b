"""What the entries of `farkas_shiny` build."""

from typing import Any

import torch
from torch import nn

from farkas_exp.data.base import Arrays


class Shiny(nn.Module):
    """Divides by the mean size of the features, to the power of `polish`, `coats` times."""

    def __init__(self, polish: float, coats: int) -> None:
        super().__init__()
        self.polish, self.coats = polish, coats

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, C, ...) to the same shape."""
        for _ in range(self.coats):
            input = input / (0.1 + input.abs().mean(dim=1, keepdim=True)) ** self.polish
        return input


def shiny_norm(channels: int, config: Any, spatial: bool) -> nn.Module:
    """Shiny."""
    return Shiny(config.polish, config.coats)


def build_shiny(plan: Any) -> nn.Module:
    """`facets` linear layers side by side, each of `width` units."""
    features = plan.in_channels * plan.image_size**2
    facets = [nn.Linear(features, plan.options.width) for _ in range(plan.options.facets)]
    return nn.Sequential(nn.Flatten(), Facets(facets), plan.kit.norm(plan.options.width, spatial=False),
                         nn.Linear(plan.options.width, plan.num_classes))  # fmt: skip


class Facets(nn.ModuleList):
    """The sum of the outputs of its layers."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(N, F) to (N, width)."""
        return sum(layer(input) for layer in self)  # type: ignore[return-value]


def shine(model: nn.Module, glow: float) -> None:
    """Multiply every weight by `glow`."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(glow)


def load_gems(config: Any, device: torch.device) -> Arrays:
    """Grey images of 8x8 pixels, dark or `carats` times as bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(140) % 2
    size = (1 + labels * (config.carats - 1)).view(-1, 1, 1, 1)
    images = (size * torch.randint(1, 25, (140, 8, 8, 1), generator=generator)).to(torch.uint8)
    return Arrays("gems", ("dark", "bright"), images[:100], labels[:100], images[100:], labels[100:])
