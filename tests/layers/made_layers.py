"""Farkas layers in double precision with parameters that a seed gives, and inputs for them."""

import torch

from farkas_exp.layers.farkas import FarkasConv2d, FarkasLinear


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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


def conv(rule, geometry, **options):
    aggregation = "sum" if rule == "learned" else rule
    learned = rule == "learned"
    return FarkasConv2d(
        3, 5, 3, aggregation=aggregation, learn_lambda=learned, dtype=torch.float64, **geometry, **options
    )
