"""Weight standardization: convolutions whose filters have mean 0 and one variance, whatever is trained.

| choice | filter i, of N entries | paper |
|---|---|---|
| `standardized` | (W_i - mean) / sqrt(var + eps) | Qiao et al. 2019, beside a normalization |
| `scaled` | g_i gamma (W_i - mean) / sqrt(N (var + eps)) | Brock et al. 2021a, in place of one |

In the second, g is learned and starts at 1, and gamma = Var[psi(x)]^(-1/2) for x ~ N(0, 1) and the activation psi: a
convolution of activated maps then keeps the variance 1. In the first one, which takes the images, gamma is 1. The
layer's `weight` stays what is drawn, decayed and saved.

Of a Farkas layer the free rows are standardized, and the last row is the negative aggregate of these: it keeps its
guarantee, which asks nothing of the free rows.
"""

import math

import torch
from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.machine.errors import UserError

EPS = 1e-6
"""As in timm; PyTorch's initialization gives a filter the variance 1 / (3 N)."""


def standardize(weight: Tensor, gain: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """The filters of `weight` (C, ...) with mean 0 and standard deviation `scale`, times `gain` (C,)."""
    var, mean = torch.var_mean(weight, tuple(range(1, weight.dim())), correction=0, keepdim=True)
    factor = scale * (var + EPS).rsqrt()
    return (weight - mean) * (factor if gain is None else factor * gain.view_as(factor))


class Standardizable(nn.Module):
    """A layer that may standardize its weight; it then has a `gain`, a parameter or None.

    `standardization` is the standard deviation that each filter gets; None leaves the weight as it is.
    """

    standardization: float | None = None
    weight: Tensor
    gain: nn.Parameter | None

    def used_weight(self) -> Tensor:
        """The weight as the layer uses it."""
        if self.standardization is None:
            return self.weight
        return standardize(self.weight, self.gain, self.standardization)


class StandardizedConv2d(Standardizable, nn.Conv2d):
    """What a plain convolution becomes."""

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.used_weight(), self.bias)


def leave_layers(model: nn.Module, activation: Activation) -> None:
    """Use the weights as they are."""


def standardize_layers(model: nn.Module, activation: Activation) -> None:
    """Standardize the weight of every convolution (Qiao et al. 2019)."""
    _set(model, gamma=None)


def scale_layers(model: nn.Module, activation: Activation) -> None:
    """Standardize the weight of every convolution so that it keeps the variance of activated maps (Brock et al.)."""
    _set(model, gamma=variance_gain(activation))


def _set(model: nn.Module, gamma: float | None) -> None:
    first = True
    for name, layer in model.named_modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = StandardizedConv2d
        if not isinstance(layer, Standardizable) or layer.get_parameter("weight").dim() != 4:
            continue
        weight = layer.get_parameter("weight")
        fan_in = weight[0].numel()
        if fan_in < 2:
            raise UserError(f"weight.name: the filters of {name} have a single entry, which is their mean; use none")
        layer.standardization = 1.0 if gamma is None else (1.0 if first else gamma) / math.sqrt(fan_in)
        first = False
        layer.register_parameter("gain", None if gamma is None else nn.Parameter(weight.new_ones(len(weight))))


def variance_gain(activation: Activation) -> float:
    """The gamma = Var[psi(x)]^(-1/2), x ~ N(0, 1), by the trapezoidal rule; sqrt(2 pi / (pi - 1)) for the ReLU."""
    x = torch.linspace(-12, 12, 240_001, dtype=torch.float64, device="cpu")
    density = torch.exp(-x.square() / 2) * (x[1] - x[0]) / math.sqrt(2 * math.pi)
    values = activation(x)
    return float((density @ values.square() - (density @ values).square()).rsqrt())
