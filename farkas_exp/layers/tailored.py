"""The tailored leaky ReLU of networks without shortcuts (Zhang et al. 2022, "Deep learning without shortcuts").

    psi(x) = sqrt(2 / (1 + s^2)) (max(x, 0) + s min(x, 0))

keeps the mean square of N(0, 1), and takes two inputs of correlation c to the correlation

    C(c) = c + (1 - s)^2 / (pi (1 + s^2)) (sqrt(1 - c^2) - c arccos(c)).

In a plain network of L activations, with orthogonal weights (init=orthogonal or delta_orthogonal, init.gain=1) and
biases of zero, the correlation 0 of two inputs becomes C applied L times. The slope s is the one for which that is
`activation.target`, 0.9 in the paper: with the ReLU it goes to 1 and all inputs look alike, with s = 1 the network is
linear. No unit is dead, so the cutoff is that of no activation: -infinity.
"""

import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasLayer
from farkas_exp.machine.errors import UserError


def tailored_relu(input: Tensor, slope: float = 0.0) -> Tensor:
    """The tailored leaky ReLU; without a slope, the ReLU times sqrt 2."""
    return F.leaky_relu(input, slope) * math.sqrt(2 / (1 + slope**2))


def correlation(c: float, slope: float, depth: int = 1) -> float:
    """What the correlation `c` of two inputs becomes behind `depth` layers."""
    factor = (1 - slope) ** 2 / (math.pi * (1 + slope**2))
    for _ in range(depth):
        c = min(1.0, c + factor * (math.sqrt(max(0.0, 1 - c * c)) - c * math.acos(c)))
    return c


def slope_for(depth: int, target: float) -> float:
    """The slope at which `depth` layers take the correlation 0 to `target`; 0 where the ReLU does not reach it."""
    low, high = 0.0, 1.0  # the correlation falls with the slope, to 0 at 1
    if correlation(0.0, low, depth) <= target:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if correlation(0.0, middle, depth) > target else (low, middle)
    return low


def tailor(model: nn.Module, config: Any) -> None:
    """Give every activation of `model` the slope for their number."""
    if not getattr(model, "is_chain", False) or any(isinstance(module, FarkasLayer) for module in model.modules()):
        raise UserError(
            "activation.name: tailored is for networks of plain layers without shortcuts: mlp, rect_conv; use another"
        )
    activations = [module for module in model.modules() if isinstance(module, Activation)]
    slope = slope_for(len(activations), config.target)
    for activation in activations:
        activation.fit(partial(tailored_relu, slope=slope), f"slope={slope:.4f}")
