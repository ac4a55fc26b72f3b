"""Farkas layers as the paper prints them: the aggregation over the activations.

Algorithm 1: y = W x; cat(y, -Agg(y)) + b. Algorithm 2: y = x + W h; cat(y, -Agg(y)) + b. This is the form of the
authors' code, and the stand-in for it here: the same networks with every Farkas layer in this form.
"""

from types import MethodType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.augmented import aggregate, augment_bias
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.residual import FarkasResidualConv2d


def literal_conv(layer: FarkasConv2d, input: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """The pre-activations of `layer`, aggregated over activations."""
    coefficient, lambda_m = layer.coefficients()
    maps = F.conv2d(input, layer.weight, None, layer.stride, layer.padding, layer.dilation)
    if shortcut is not None:
        maps = shortcut + maps
    maps = torch.cat((maps, -aggregate(maps, coefficient, dim=1, keepdim=True)), dim=1)
    return maps + augment_bias(layer.bias, coefficient, layer.rule.bound(lambda_m))[:, None, None]


def make_literal(model: nn.Module) -> nn.Module:
    """Give every Farkas convolution of `model` the literal form, in place."""

    def forward(self: FarkasConv2d, input: Tensor) -> Tensor:
        return literal_conv(self, input)

    def activate(self: FarkasResidualConv2d, hidden: Tensor, shortcut: Tensor, activation: Activation) -> Tensor:
        return activation(literal_conv(self, hidden, shortcut))

    for module in model.modules():
        if isinstance(module, FarkasResidualConv2d):
            module.activate = MethodType(activate, module)  # type: ignore[method-assign]
        elif isinstance(module, FarkasConv2d):
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]
    return model
