"""Residual branches: their last layers set to zero or scaled, or all their layers drawn small."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from farkas_exp.initialization.random import drawn_layers, weight_layers, zero_bias
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.machine.errors import UserError


def count_residual_branches(model: nn.Module) -> int:
    """The number of residual branches in the network."""
    return sum(isinstance(module, ResidualBlock) for module in model.modules())


def branch_end_parameters(model: nn.Module) -> Iterator[Tensor]:
    """The parameters that scale the output of every residual branch.

    They are the weight and bias of its last layer, or of a trainable normalization between that layer and the sum,
    which would undo any scale of the layer.
    """
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            layer, norm = block.branch_end()
            if getattr(layer, "standardization", None) is not None:
                raise UserError("init: a standardized weight undoes any scale of the branch; use residual=skipinit")
            if norm is None or isinstance(norm, nn.Identity):
                parameters = (layer.weight, layer.bias)
            else:
                parameters = (getattr(norm, "weight", None), getattr(norm, "bias", None))
                if parameters[0] is None:
                    raise UserError(
                        "init: a normalization without a learned scale between a branch and its sum undoes any scale of"
                        " the branch; use normalization.position=after or normalization.affine=true"
                    )
            yield from (parameter for parameter in parameters if isinstance(parameter, Tensor))


@torch.no_grad()
def zero_last_layers(model: nn.Module) -> None:
    """Make every residual branch zero, weight and bias: each block starts as its shortcut (paper, Table 4).

    A Farkas block then returns its input and an appended zero.
    """
    for parameter in branch_end_parameters(model):
        parameter.zero_()


@torch.no_grad()
def scale_last_layers(model: nn.Module, factor: float) -> None:
    """Multiply the end of every residual branch, weight and bias."""
    for parameter in branch_end_parameters(model):
        parameter.mul_(factor)


@torch.no_grad()
def identity_small_(model: nn.Module, generator: torch.Generator) -> None:
    """Branches near zero, so that each block starts near its shortcut (Hardt and Ma 2017, Section 4.1).

    With kernel size k and c output channels, the layers of residual branches are N(0, (1 / (k^2 c))^2), with k = 1 for
    linear ones; all other convolutions N(0, (1 / (k sqrt c))^2), which the paper calls standard. Their biases are zero.
    Linear layers outside of branches keep their weights. Of a Farkas layer, c counts the aggregated component, and the
    free rows are drawn.
    """
    inside = {layer for block in model.modules() if isinstance(block, ResidualBlock) for layer in weight_layers(block)}
    for layer in drawn_layers(model):
        spatial = layer.weight.dim() == 4
        if layer not in inside and not spatial:
            continue
        area = layer.weight[0, 0].numel() if spatial else 1  # k^2
        channels = layer.weight.shape[0] if layer.bias is None else layer.bias.shape[0]
        std = 1 / (area * channels) if layer in inside else 1 / math.sqrt(area * channels)
        nn.init.normal_(layer.weight, 0.0, std, generator=generator)
        zero_bias(layer)
