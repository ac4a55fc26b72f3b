"""One-sided activations and the cutoff that Corollary 3.3 needs for each.

The corollary asks for a value c below which the activation is (nearly) zero or flat. Here c is the point below which
|psi'| <= 0.01:

| activation | psi' below zero | c |
|---|---|---|
| relu | 0 | 0 |
| leaky_relu, slope 0.01 | 0.01 | 0 |
| elu, alpha = 1 | exp(x) | ln 0.01 = -4.605 |
| selu | scale * alpha * exp(x) | ln(0.01 / (scale * alpha)) = -5.169 |
| softplus | sigmoid(x) | logit(0.01) = -4.595 |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.errors import unknown

FLAT_SLOPE = 0.01
"""The slope at and below which an activation counts as flat."""
_SELU_SLOPE = 1.0507009873554804934193349852946 * 1.6732632423543772848170429916717


@dataclass(frozen=True)
class ActivationFunction:
    """An element-wise function and its cutoff c."""

    function: Callable[[Tensor], Tensor]
    cutoff: float


ACTIVATIONS: Mapping[str, ActivationFunction] = {
    # In place: neither a convolution nor a normalization before it needs its output again.
    "relu": ActivationFunction(F.relu_, 0.0),
    "leaky_relu": ActivationFunction(lambda x: F.leaky_relu(x, FLAT_SLOPE), 0.0),
    "elu": ActivationFunction(F.elu, math.log(FLAT_SLOPE)),
    "selu": ActivationFunction(F.selu, math.log(FLAT_SLOPE / _SELU_SLOPE)),
    "softplus": ActivationFunction(F.softplus, math.log(FLAT_SLOPE / (1 - FLAT_SLOPE))),
}


def activation_cutoff(name: str) -> float:
    """The cutoff c of a named activation.

    Raises:
        UserError: an unknown name.
    """
    if name not in ACTIVATIONS:
        raise unknown("activation.name", name, ACTIVATIONS)
    return ACTIVATIONS[name].cutoff


class Activation(nn.Module):
    """A named activation that carries its cutoff: a unit is dead where its pre-activation is <= `cutoff`.

    `relu` works in place on its input. Forward pre-hooks see the pre-activations. In training mode a share `dropout` of
    the outputs is dropped (Srivastava et al. 2014); a dropped unit may be the only active one of a Farkas layer.

    Raises:
        UserError: an unknown name.
    """

    def __init__(self, name: str, cutoff: float | None = None) -> None:
        super().__init__()
        default = activation_cutoff(name)
        self.name = name
        self.cutoff = default if cutoff is None else cutoff
        self.dropout = 0.0

    def forward(self, input: Tensor) -> Tensor:
        """psi(input), of the same shape."""
        output = ACTIVATIONS[self.name].function(input)
        return F.dropout(output, self.dropout, self.training) if self.dropout else output

    def extra_repr(self) -> str:
        """Name and cutoff, for `print(model)`."""
        return f"{self.name}, cutoff={self.cutoff:.4g}"
