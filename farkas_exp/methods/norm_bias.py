"""Norm-bias (Goldblum et al. 2020, "Truth or backpropaganda?", Equation 2): draws the parameters' norm to a value."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def norm_bias(parameters: Iterable[Tensor], norm_squared: float = 0.0) -> Tensor:
    """|sum phi^2 - mu^2| over all parameters. With mu = 0 it is weight decay: SGD's `weight_decay` is twice its factor.

    Args:
        parameters: tensors of any shape.
        norm_squared: mu^2.
    """
    total = torch.stack([p.float().pow(2).sum() if p.dtype != torch.float64 else p.pow(2).sum() for p in parameters])
    return (total.sum() - norm_squared).abs()


class NormBias:
    """strength * |sum phi^2 - mu^2| over the trainable parameters, biases and normalization included."""

    def __init__(self, model: nn.Module, strength: float, norm_squared: float = 0.0) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.strength, self.norm_squared = strength, norm_squared

    def __call__(self, forward: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the term."""
        return forward(images), self.strength * norm_bias(self.parameters, self.norm_squared)
