"""Random initializations of every linear and convolution layer, plain and Farkas, the classifier included."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.machine.errors import UserError
from farkas_exp.models.create import WEIGHT_MODULES

RAI_SCALE = 0.6007
"""Standard deviation of randomized asymmetric initialization, times sqrt(fan_in), so that the length is kept."""


def weight_layers(model: nn.Module) -> Iterator[nn.Linear | nn.Conv2d | FarkasLayer]:
    """The layers with a weight, in the order of their registration."""
    for module in model.modules():
        if isinstance(module, WEIGHT_MODULES):
            yield module


_NEVER_DRAWN = (_ConvNd, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
"""Layers whose weights no initialization draws, except those in `WEIGHT_MODULES`."""


def drawn_layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d | FarkasLayer]:
    """The linear, convolution and Farkas layers of a network whose weights can all be drawn.

    Raises:
        UserError: an initialization would silently skip a layer, or be undone in one.
    """
    for name, module in model.named_modules():
        if isinstance(module, _NEVER_DRAWN) and not isinstance(module, WEIGHT_MODULES):
            raise UserError(
                f"init: {name or 'the network'} is a {type(module).__name__}, and this initialization is for Linear,"
                " Conv2d and Farkas layers"
            )
        if isinstance(module, WEIGHT_MODULES) and not {"weight", "bias"} <= module._parameters.keys():
            raise UserError(
                f"init: {name or 'the layer'} computes its weight or bias from other parameters (weight_norm, pruning),"
                " which would undo an initialization; initialize the network first"
            )
    layers = list(weight_layers(model))
    if not layers:
        raise UserError("init: the network has no Linear, Conv2d or Farkas layer to initialize")
    return layers


def groups_of(layer: nn.Linear | nn.Conv2d | FarkasLayer) -> tuple[Tensor, ...]:
    """The weights of the groups of a layer, which see different channels; views."""
    return layer.weight.chunk(layer.groups if isinstance(layer, nn.Conv2d) else 1)


@torch.no_grad()
def zero_bias(layer: nn.Linear | nn.Conv2d | FarkasLayer) -> None:
    """Set the bias to zero, if there is one."""
    if layer.bias is not None:
        layer.bias.zero_()


def pytorch_(model: nn.Module) -> None:
    """Keep PyTorch's defaults, as built: U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""


def xavier_(model: nn.Module, generator: torch.Generator, gain: float | None = None) -> None:
    """Weights U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out)), biases zero (Glorot and Bengio 2010)."""
    for layer in drawn_layers(model):
        nn.init.xavier_uniform_(layer.weight, gain or 1.0, generator=generator)
        zero_bias(layer)


def kaiming_(model: nn.Module, generator: torch.Generator, gain: float | None = None) -> None:
    """Weights N(0, gain^2 / fan_in) with gain sqrt 2, biases zero (He et al. 2015)."""
    for layer in drawn_layers(model):
        std = (gain or math.sqrt(2)) / math.sqrt(layer.weight[0].numel())
        nn.init.normal_(layer.weight, 0.0, std, generator=generator)
        zero_bias(layer)


@torch.no_grad()
def orthogonal_(model: nn.Module, generator: torch.Generator, gain: float | None = None) -> None:
    """Weights with orthonormal rows or columns times gain (sqrt 2, for ReLU), biases zero (Saxe et al. 2014).

    In a grouped convolution, this holds for the weights of each group.
    """
    for layer in drawn_layers(model):
        for weight in groups_of(layer):
            made = torch.empty(weight.shape, dtype=torch.promote_types(weight.dtype, torch.float32))
            weight.copy_(nn.init.orthogonal_(made, gain or math.sqrt(2), generator=generator))
        zero_bias(layer)


def torchvision_(model: nn.Module, generator: torch.Generator) -> None:
    """Convolutions N(0, 2 / (out k^2)), He's by the fan-out, as torchvision draws its ResNets; all else PyTorch's.

    Biases stay as they are: in a Farkas layer they make lambda^T b positive. Its rows `out` are the free ones.
    """
    for layer in drawn_layers(model):
        if layer.weight.dim() == 4:
            fan_out = layer.weight.shape[0] * layer.weight[0, 0].numel()
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_out), generator=generator)


@torch.no_grad()
def rai_(model: nn.Module, generator: torch.Generator) -> None:
    """Randomized asymmetric initialization (Lu et al. 2019): each row of (W, b) has one positive Beta(2, 1) entry.

    All entries of the (out, fan_in + 1) matrix are N(0, 0.6007^2 / fan_in) but one in each row, at a uniformly drawn
    place (the bias included, if there is one), which is Beta(2, 1). The last bias of a Farkas layer has no row; it is
    drawn like the other normal entries.
    """
    for layer in drawn_layers(model):
        rows, fan_in = layer.weight.shape[0], layer.weight[0].numel()
        scale = RAI_SCALE / math.sqrt(fan_in)
        matrix = scale * torch.randn(rows, fan_in + 1, generator=generator)
        place = torch.randint(fan_in + (layer.bias is not None), (rows, 1), generator=generator)
        beta = torch.rand(rows, 1, generator=generator).sqrt()  # the distribution function of Beta(2, 1) is x^2
        matrix.scatter_(1, place, beta)
        layer.weight.copy_(matrix[:, :-1].reshape(layer.weight.shape))
        if layer.bias is not None:
            last = scale * torch.randn(len(layer.bias) - rows, generator=generator)  # of a Farkas layer
            layer.bias.copy_(torch.cat((matrix[:, -1], last)))
