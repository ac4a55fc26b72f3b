"""Normalizations of convolutional maps (N, C, H, W) and features (N, F), affine-free unless asked otherwise.

The paper's networks normalize after the activation, without an affine map. After a ReLU a normalization is safe for a
Farkas layer; before it, it breaks the relation lambda^T z = lambda^T b. Two keep the sign of what they are given, and
so more of the guarantee (at the cutoff 0, without an affine map, whose shift loses it):

| | after the ReLU | before it | between a branch and its sum |
|---|---|---|---|
| `rms`: one positive factor an image | kept | kept | kept |
| `dyt`: odd and increasing while alpha > 0 | kept | kept | lost |
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.config.schema import NormalizationConfig
from farkas_exp.machine.errors import UserError
from farkas_exp.registry import NORMALIZATIONS


def group_norm(
    input: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
    channels: int | None = None,
) -> Tensor:  # fmt: skip
    """Group normalization of (N, C, ...) for any number of channels, with weight and bias (C,) (Wu & He, 2018).

    The channels are cut into consecutive groups whose sizes differ by at most one, the larger ones first; where
    `groups` divides the channels this is `torch.nn.functional.group_norm`. `channels` is C for `torch.jit.trace`, in
    which the shape of the input is no number.
    """
    size, larger = divmod(input.shape[1] if channels is None else channels, groups)
    if larger == 0:
        return F.group_norm(input, groups, weight, bias, eps)
    cut = larger * (size + 1)
    parts = []
    for part, count in ((slice(0, cut), larger), (slice(cut, None), groups - larger)):
        scale = None if weight is None else weight[part]
        shift = None if bias is None else bias[part]
        parts.append(F.group_norm(input[:, part], count, scale, shift, eps))
    return torch.cat(parts, dim=1)


class _Affine(nn.Module):
    """A normalization that may have a weight and a bias, (C,)."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def _add(self, channels: int | None, *names: str) -> None:
        """Add parameters by name, of values that `reset_parameters` sets; without `channels`, None."""
        for name in names:
            self.register_parameter(name, None if channels is None else nn.Parameter(torch.empty(channels)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with a weight of 1 and a bias of 0."""
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            parameter = self._parameters.get(name)
            if parameter is not None:
                nn.init.constant_(parameter, value)


class GroupNorm(_Affine):
    """`group_norm` as a module, for any number of channels; `affine` adds a weight and a bias of shape (C,)."""

    def __init__(self, groups: int, channels: int, affine: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        assert 1 <= groups <= channels
        self.groups, self.channels, self.eps = groups, channels, eps
        self._add(channels if affine else None, "weight", "bias")

    def forward(self, input: Tensor) -> Tensor:
        return group_norm(input, self.groups, self.weight, self.bias, self.eps, self.channels)

    def extra_repr(self) -> str:
        return f"{self.groups}, {self.channels}, affine={self.weight is not None}"


def rms_norm(input: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """RMSNorm, x / sqrt(mean(x^2) + eps), over the channels and positions of each image (Zhang & Sennrich, 2019).

    The input is (N, C, ...), the weight (C,).
    """
    wide = torch.float32 if input.dtype in (torch.bfloat16, torch.float16) else input.dtype
    square = input.to(wide).square().mean(tuple(range(1, input.dim())), keepdim=True)
    output = input * (square + eps).rsqrt().to(input.dtype)
    return output if weight is None else output * _per_channel(weight, input)


def dynamic_tanh(input: Tensor, alpha: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Dynamic tanh, weight * tanh(alpha x) + bias: no statistics at all (Zhu et al., 2025).

    The input is (N, C, ...), alpha one number, weight and bias are (C,). The gradient of a tanh needs its values: what
    is returned is another tensor, which the ReLU may overwrite.
    """
    output = (alpha * input).tanh()
    output = output.clone() if weight is None else output * _per_channel(weight, input)
    return output if bias is None else output + _per_channel(bias, input)


def _per_channel(values: Tensor, input: Tensor) -> Tensor:
    return values.view(-1, *[1] * (input.dim() - 2))


class RMSNorm(_Affine):
    """`rms_norm` as a module; `affine` adds a weight of shape (C,), and no bias."""

    def __init__(self, channels: int, affine: bool = False) -> None:
        super().__init__()
        self._add(channels if affine else None, "weight")

    def forward(self, input: Tensor) -> Tensor:
        return rms_norm(input, self.weight)


class DynamicTanh(_Affine):
    """`dynamic_tanh` as a module, its alpha trained from `alpha` on; `affine` adds a weight and a bias, (C,)."""

    def __init__(self, channels: int, affine: bool = False, alpha: float = 0.5) -> None:
        super().__init__()
        self.start, self.alpha = alpha, nn.Parameter(torch.empty(()))
        self._add(channels if affine else None, "weight", "bias")

    def reset_parameters(self) -> None:
        """Start with the given alpha, a weight of 1 and a bias of 0."""
        super().reset_parameters()
        nn.init.constant_(self.alpha, self.start)

    def forward(self, input: Tensor) -> Tensor:
        return dynamic_tanh(input, self.alpha, self.weight, self.bias)


def no_norm(channels: int, config: NormalizationConfig, spatial: bool) -> nn.Module:
    """The identity."""
    return nn.Identity()


def batch_norm(channels: int, config: NormalizationConfig, spatial: bool) -> nn.Module:
    """Over the images of a batch and the positions of a map (Ioffe and Szegedy 2015)."""
    kind = nn.BatchNorm2d if spatial else nn.BatchNorm1d
    return kind(channels, affine=bool(config.affine))


def layer_norm(channels: int, config: NormalizationConfig, spatial: bool) -> nn.Module:
    """Over the channels and positions of each image together (Ba et al. 2016)."""
    return GroupNorm(1, channels, bool(config.affine))


def grouped_norm(channels: int, config: NormalizationConfig, spatial: bool) -> nn.Module:
    """Over each of at most `groups` groups of channels (Wu and He 2018)."""
    # A group of a single feature would always be normalized to zero.
    largest = channels if spatial else max(1, channels // 2)
    return GroupNorm(min(config.groups, largest), channels, bool(config.affine))


def instance_norm(channels: int, config: NormalizationConfig, spatial: bool) -> nn.Module:
    """Over the positions of each map (Ulyanov et al. 2016)."""
    return nn.InstanceNorm2d(channels, affine=bool(config.affine))


def root_mean_square(channels: int, config: NormalizationConfig, spatial: bool) -> nn.Module:
    """By the root mean square of each image, its mean left in (Zhang and Sennrich 2019)."""
    return RMSNorm(channels, bool(config.affine))


def tanh(channels: int, config: Any, spatial: bool) -> nn.Module:
    """Dynamic tanh in place of a normalization (Zhu et al. 2025)."""
    return DynamicTanh(channels, bool(config.affine), config.alpha)


def build_normalization(config: NormalizationConfig, channels: int, spatial: bool = True) -> nn.Module:
    """The normalization of `config` over `channels` channels, or features where not `spatial`."""
    entry = NORMALIZATIONS[config.name]
    if entry.maps_only and not spatial:
        others = [name for name in NORMALIZATIONS if not NORMALIZATIONS[name].maps_only]
        raise UserError(
            f"normalization.name: {config.name} needs images; for a network of linear layers choose from:"
            f" {', '.join(others)}"
        )
    built = entry.build(channels, config, spatial)
    if not isinstance(built, nn.Module):
        raise UserError(
            f"normalization.name: {config.name}: its builder has to return a module, not {type(built).__name__}"
        )
    return built
