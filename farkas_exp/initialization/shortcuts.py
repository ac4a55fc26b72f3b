"""Initializations that account for shortcuts (lecture on the initialization of residual networks).

A linear residual network z^l = (I + W^l) z^(l-1) of width d, whose entries have variance v, stretches a vector by
E ||y||^2 / ||x||^2 = (1 + d v)^L: by 2^L for Xavier's v = 1/d, by at most e for v = 1/(d L).
"""

import math

import torch
from torch import Tensor, nn

from farkas_exp.initialization.random import drawn_layers, groups_of, weight_layers, zero_bias
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.layers.residual import ResidualBlock
from farkas_exp.machine.errors import UserError


@torch.no_grad()
def residual_xavier_(model: nn.Module, generator: torch.Generator) -> None:
    """Branches of variance 1/L, where L is their number: N(0, 1 / (d L)) for the one layer of a linear branch.

    The lecture has linear layers only. A branch of p layers with ReLUs gets He's standard deviation sqrt(2 / fan_in)
    times L^(-1 / (2 p)) in each of them, so that its variance is 1/L of its input's. Layers outside of branches are as
    in He's initialization, without the factor 2 in a network without activations; biases are zero.
    """
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    factors = {}
    for block in blocks:
        layers = branch_layers(block)
        factors |= dict.fromkeys(layers, len(blocks) ** (-0.5 / len(layers)))
    for layer in drawn_layers(model):
        _normal(layer, gain_of(model) * factors.get(layer, 1.0), generator)


@torch.no_grad()
def minus_identity_(model: nn.Module, generator: torch.Generator) -> None:
    """Branches N(0, 1 / d) - I, which cancel the shortcut: the plain network, as a warning.

    With activations the variance is 2 / fan_in (He); of a convolution the identity is the kernel with a one in its
    middle. Layers outside of branches are the same without the identity; biases are zero.
    """
    for layer in drawn_layers(model):
        _normal(layer, gain_of(model), generator)
    for block in model.modules():
        if isinstance(block, ResidualBlock):
            layers = branch_layers(block)
            if len(layers) != 1 or layers[0].weight.shape[0] != layers[0].weight.shape[1]:
                raise UserError(
                    "init.name: minus_identity needs residual branches of one square layer, as model=linear_residual or"
                    " model=rect_mlp model.residual=true has"
                )
            _middle(layers[0].weight).sub_(torch.eye(layers[0].weight.shape[0]))


@torch.no_grad()
def delta_orthogonal_(model: nn.Module, generator: torch.Generator, gain: float | None = None) -> None:
    """Kernels that are zero but in their middle, where they are orthogonal times gain (sqrt 2) (Xiao et al. 2018).

    The convolution is then the same orthogonal map at every position, so it keeps the norm of all its input (up to the
    gain) where it has as many outputs as inputs; where it has fewer, its rows are orthonormal. Linear layers are
    orthogonal; biases are zero. Of a Farkas layer, these are the free rows; of a grouped convolution, those of a group.
    """
    for layer in drawn_layers(model):
        layer.weight.zero_()
        for weight in groups_of(layer):
            matrix = nn.init.orthogonal_(torch.empty(weight.shape[:2]), gain or math.sqrt(2), generator=generator)
            _middle(weight).copy_(matrix)
        zero_bias(layer)


def branch_layers(block: ResidualBlock) -> list[nn.Linear | nn.Conv2d | FarkasLayer]:
    """The layers with a weight of a block's branch, without a projection of its shortcut."""
    projection = block.projection()
    outside = set() if projection is None else set(projection.modules())
    return [layer for layer in weight_layers(block) if layer not in outside]


def gain_of(model: nn.Module) -> float:
    """Sqrt 2, for ReLU and its like; 1 in a network without activations."""
    return math.sqrt(2) if any(isinstance(module, Activation) for module in model.modules()) else 1.0


def _normal(layer: nn.Linear | nn.Conv2d | FarkasLayer, gain: float, generator: torch.Generator) -> None:
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()), generator=generator)
    zero_bias(layer)


def _middle(weight: Tensor) -> Tensor:
    """The (out, in) matrix in the middle of a kernel, or all of a linear layer's weight; a view."""
    return weight if weight.dim() == 2 else weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2]
