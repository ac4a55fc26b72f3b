"""What a Farkas layer guarantees, and what it attains on given inputs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from farkas_exp.layers.augmented import aggregate
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer
from farkas_exp.layers.residual import FarkasResidualConv2d


@dataclass(frozen=True)
class Certificate:
    """The bound of Theorem 3.2 and Corollary 3.3 for a layer, and the value that it attains.

    Attributes:
        margin: the minimum over samples and positions of the largest pre-activation, max_i z_i.
        lambda_b: lambda^T b, the lower bound that the weights and biases guarantee for every input.
        cutoff: the activation's cutoff c.
    """

    margin: float
    lambda_b: float
    cutoff: float

    @property
    def strict(self) -> bool:
        """Whether max_i z_i > c is guaranteed for every input, as Theorem 3.2 asks; otherwise only >= is."""
        return self.lambda_b > self.cutoff

    @property
    def active(self) -> bool:
        """Whether every sample and position has a unit beyond the cutoff, on the given inputs."""
        return self.margin > self.cutoff


@torch.no_grad()
def lambda_b(layer: FarkasLayer) -> float:
    """lambda^T b of a Farkas layer, in float64.

    With b_m = max(t + margin - Agg(b), b_m) it is lambda_m * max(t + margin, Agg(b) + b_m), free of cancellation.
    """
    coefficient, lambda_m = layer.coefficients()
    bias = layer.free()[1].double()
    attained = aggregate(bias[:-1], coefficient) + bias[-1]
    least = layer.rule.bound(lambda_m)
    return float(lambda_m) * max(float(least), float(attained))


@torch.no_grad()
def certify(layer: FarkasLayer, input: Tensor, shortcut: Tensor | None = None) -> Certificate:
    """Certify a Farkas layer on inputs.

    The margin is at least `lambda_b` up to the rounding of the layer's own precision (about 1e-2 of the
    pre-activations' size in bfloat16); check strictness in float64.

    Args:
        layer: a Farkas layer.
        input: of the layer: (..., F), (N, C, H, W) or (C, H, W).
        shortcut: (N, channels, H', W'), for a residual layer only.

    Raises:
        ValueError: a residual layer without a shortcut, or another layer with one.
    """
    if isinstance(layer, FarkasResidualConv2d) != (shortcut is not None):
        raise ValueError("a residual Farkas layer is certified with its shortcut, any other layer without one")
    outputs = layer(input) if shortcut is None else layer(input, shortcut)
    largest = outputs.amax(dim=-3 if isinstance(layer, FarkasConv2d) else -1)
    scale = layer.scaling.of_branch if isinstance(layer, FarkasResidualConv2d) else 1.0
    return Certificate(float(largest.min()), scale * lambda_b(layer), scale * layer.rule.cutoff)
