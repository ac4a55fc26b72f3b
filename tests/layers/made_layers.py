"""Farkas layers in double precision with parameters that a seed gives, and the algorithms as the paper prints them."""

import torch

from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear
from farkas_exp.layers.residual import FarkasResidualConv2d
from tests.networks import normal


def appended(y, bias, aggregate):
    """What Algorithms 1 and 2 do with y before their ReLU, line by line; channels in dimension 1."""
    y_bar = -aggregate(y, dim=1, keepdim=True)
    b_bar = torch.max(-aggregate(bias[:-1], dim=0), bias[-1])
    y = torch.cat((y, y_bar), dim=1)
    b = torch.cat((bias[:-1], b_bar[None]))
    return y + b.view(1, -1, *[1] * (y.dim() - 2))


def scatter_parameters(layer, seed, bias_shift=0.0):
    """Give all parameters random values (the logits of lambda too), with biases around `bias_shift`."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=1000 * seed + number))
        layer.bias.add_(bias_shift)
    return layer


def linear(rule, inputs=6, outputs=5, **options):
    aggregation = "sum" if rule == "learned" else rule
    return FarkasLinear(
        inputs, outputs, aggregation=aggregation, learn_lambda=rule == "learned", dtype=torch.float64, **options
    )


def residual(aggregation="sum", kernel=3, seed=0, **options):
    layer = FarkasResidualConv2d(
        3, 5, kernel, padding=kernel // 2, aggregation=aggregation, dtype=torch.float64, **options
    )
    return scatter_parameters(layer, seed)


def conv(rule, geometry, **options):
    aggregation = "sum" if rule == "learned" else rule
    learned = rule == "learned"
    return FarkasConv2d(
        3, 5, 3, aggregation=aggregation, learn_lambda=learned, dtype=torch.float64, **geometry, **options
    )
