"""Norm-bias (Goldblum et al. 2020, "Truth or backpropaganda?", Equation 2): pulls the parameters' norm to a value."""

from collections.abc import Iterable

import torch
from torch import Tensor

from farkas_exp.methods.base import Regularizer, Training


def norm_bias(parameters: Iterable[Tensor], norm_squared: float = 0.0) -> Tensor:
    """|sum phi^2 - mu^2| over all parameters.

    With mu = 0 it is weight decay: a factor before it is half of SGD's `weight_decay`.
    """
    total = torch.stack([p.float().pow(2).sum() if p.dtype != torch.float64 else p.pow(2).sum() for p in parameters])
    return (total.sum() - norm_squared).abs()


class NormBias(Regularizer):
    """strength * |sum phi^2 - mu^2| over the trainable parameters, biases and normalization included."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def penalty(self, logits: Tensor) -> Tensor:
        """The term, which does not depend on the images."""
        own = self.config.regularizer
        return own.strength * norm_bias(self.parameters, own.norm_squared)
