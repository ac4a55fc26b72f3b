"""Gradients clipped before the optimizer's step: by their norm, or unit by unit."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from farkas_exp.initialization.matched import classifier_of
from farkas_exp.methods.base import Method, Training

SMALLEST_NORM = 1e-3
"""What a unit's weight counts at least (Brock et al. 2021b), so that it can leave zero."""


def unit_norms(tensor: Tensor) -> Tensor:
    """The norm of the weights of each unit, a row or a filter, for broadcasting; of a bias or a gain as a whole."""
    rest = None if tensor.dim() < 2 else tuple(range(1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=rest, keepdim=rest is not None)


@torch.no_grad()
def clip_units(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Adaptive gradient clipping: the gradient of each unit at most `limit` times its weight, in norm.

    G_i <- G_i min(1, limit max(||W_i||, 1e-3) / ||G_i||) for each unit i (Brock et al. 2021b, Equation 3). Of a Farkas
    layer the units are the free rows, through which the gradient of its last row goes.
    """
    for parameter in parameters:
        if parameter.grad is not None:
            allowed = limit * unit_norms(parameter).clamp_(min=SMALLEST_NORM)
            parameter.grad.mul_((allowed / unit_norms(parameter.grad).clamp_(min=1e-6)).clamp_(max=1))


class UnitClipping(Method):
    """`optimizer.clip_units`: every parameter but those of the last linear layer, as in the paper."""

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        spared = {*classifier_of(self.model).parameters()}
        self.parameters = [parameter for parameter in self.model.parameters() if parameter not in spared]

    def change_gradients(self) -> None:
        limit = self.config.optimizer.clip_units
        assert limit is not None
        clip_units(self.parameters, limit)


class NormClipping(Method):
    """`optimizer.clip_norm`: the gradient of all parameters together at most that long (Pascanu et al. 2013)."""

    def change_gradients(self) -> None:
        limit = self.config.optimizer.clip_norm
        assert limit is not None
        nn.utils.clip_grad_norm_(self.model.parameters(), limit)
