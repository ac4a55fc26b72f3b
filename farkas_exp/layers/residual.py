"""Residual layers: the end of a residual branch together with its shortcut (Algorithm 2, Appendix A.2).

The Farkas form maps to as many channels as the shortcut x has (c) and appends the aggregated component, which covers
the whole sum: z = cat(x + y, -Agg(x + y)) + b with y = W h, so the block's output has c + 1 channels. The proof uses
only lambda^T z = lambda^T b, so any shortcut is safe. As -Agg(y) = (-Agg(W)) h, the branch is a single convolution with
the augmented weight, and only the shortcut is aggregated over activations.

With residual scaling (Balduzzi et al. 2017) the sum is alpha (x + beta y), and the aggregated component covers it as
well: z = alpha (cat(x, -Agg(x)) + beta (cat(y, -Agg(y)) + b)), so lambda^T z = alpha beta lambda^T b. For alpha and
beta above zero its sign is that of lambda^T b; the cutoff and the margin of the bias's bound are divided by alpha beta,
so that the sum keeps the guarantee of the unscaled layer: at least one unit at or above the cutoff.

A branch may have a learned multiplier, x + m f(x) with m = 0 at the start: SkipInit (De & Smith 2020) and ReZero
(Bachlechner et al. 2021), which are the same in these networks. A branch ends in a layer that is linear in (W, b), so
m f(x) has the weight m W and the bias m b. The Farkas form aggregates these: the guarantee holds for every m, and for
m >= 0 (and the bound 0) the layer is m times the one without a multiplier.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from farkas_exp.layers.activation import Activation
from farkas_exp.layers.augmented import aggregate
from farkas_exp.layers.farkas import FarkasConv2d
from farkas_exp.layers.standardization import Standardizable


@dataclass(frozen=True)
class Scaling:
    """Residual scaling: a block's sum is alpha * (shortcut + beta * branch) (Balduzzi et al. 2017).

    Without `skip` the shortcut is 0, and a block is a chain of its layers.

    Raises:
        ValueError: a factor that is not positive; the Farkas guarantee would be lost.
    """

    alpha: float = 1.0
    beta: float = 1.0
    skip: bool = True

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"residual.{name}: {value!r} is out of range; it must be positive")

    @property
    def of_branch(self) -> float:
        """The factor on the branch, alpha * beta."""
        return self.alpha * self.beta

    def terms(self, branch: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha * beta * branch and alpha * shortcut, the two terms of the sum; a factor of 1 costs nothing."""
        branch = branch if self.of_branch == 1 else self.of_branch * branch
        if not self.skip:
            return branch, torch.zeros_like(shortcut)
        return branch, shortcut if self.alpha == 1 else self.alpha * shortcut


UNSCALED = Scaling()

B = TypeVar("B", Tensor, Tensor | None)


def append_shortcut(branch: Tensor, shortcut: Tensor, coefficient: float | Tensor) -> Tensor:
    """Add the shortcut to an augmented branch: cat(y + x, y_m - Agg(x)) (Algorithm 2).

    Args:
        branch: (N, c + 1, ...), the output of an augmented layer, its last component the aggregated one.
        shortcut: (N, c, ...).
        coefficient: the aggregation's a, one number or (c,).

    Returns:
        The pre-activations, (N, c + 1, ...).
    """
    aggregated = aggregate(shortcut, coefficient, dim=1, keepdim=True)
    return torch.cat((branch[:, :-1] + shortcut, branch[:, -1:] - aggregated), dim=1)


def multiplied(weight: Tensor, bias: B, multiplier: Tensor | None) -> tuple[Tensor, B]:
    """The weight and bias of a layer times its multiplier, where it has one."""
    if multiplier is None:
        return weight, bias
    return multiplier * weight, bias if bias is None else multiplier * bias


class _ResidualEnd(Standardizable):
    """The end of a residual branch: `forward(hidden, shortcut)` forms the sum."""

    multiplier: nn.Parameter | None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.scaling = UNSCALED
        self.register_parameter("multiplier", None)

    def set_scaling(self, scaling: Scaling) -> None:
        """Scale the branch and the sum from now on."""
        self.scaling = scaling

    def branch(self, hidden: Tensor) -> Tensor:
        """The branch with its bias, without the shortcut."""
        raise NotImplementedError

    def merge(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """The pre-activation from the branch and the shortcut."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, shortcut: Tensor) -> Tensor:  # type: ignore[override]
        """The pre-activation from hidden (N, in_channels, H, W) and the shortcut (N, channels, H', W')."""
        return self.merge(self.branch(hidden), shortcut)

    def activate(self, hidden: Tensor, shortcut: Tensor, activation: Activation) -> Tensor:
        """activation(forward(hidden, shortcut))."""
        return activation(self(hidden, shortcut))


class ResidualConv2d(_ResidualEnd, nn.Conv2d):  # type: ignore[override]
    """The plain end: conv(hidden) + shortcut, (N, out_channels, H', W'). Takes the arguments of `nn.Conv2d`."""

    def branch(self, hidden: Tensor) -> Tensor:
        """The convolution alone: (N, out_channels, H', W')."""
        return self._conv_forward(hidden, *multiplied(self.used_weight(), self.bias, self.multiplier))

    def merge(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        branch, shortcut = self.scaling.terms(branch, shortcut)
        return branch + shortcut


class FarkasResidualConv2d(_ResidualEnd, FarkasConv2d):  # type: ignore[override]
    """The Farkas end (Algorithm 2), which returns `channels` + 1 channels. Takes the arguments of `FarkasConv2d`.

    The weight is (channels, in_channels, k, k), the bias (channels + 1,).
    """

    def __init__(self, in_channels: int, channels: int, *arguments: Any, **options: Any) -> None:
        super().__init__(in_channels, channels + 1, *arguments, **options)

    def free(self) -> tuple[Tensor, Tensor]:
        """See `FarkasLayer`; times the multiplier."""
        return multiplied(*super().free(), self.multiplier)

    def set_scaling(self, scaling: Scaling) -> None:
        """Scale the branch and the sum from now on; cutoff and margin stay those of the sum."""
        change = scaling.of_branch / self.scaling.of_branch
        self.rule = replace(self.rule, cutoff=self.rule.cutoff / change, margin=self.rule.margin / change)
        super().set_scaling(scaling)

    def branch(self, hidden: Tensor) -> Tensor:
        """The augmented convolution: (N, channels + 1, H', W')."""
        return FarkasConv2d.forward(self, hidden)

    def merge(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        """The pre-activation from the branch (channels + 1) and the shortcut (channels)."""
        return append_shortcut(*self.scaling.terms(branch, shortcut), self.coefficients()[0])


ResidualLayer = ResidualConv2d | FarkasResidualConv2d
"""A layer that ends a residual branch and forms the sum."""
BranchEnd = nn.Conv2d | nn.Linear | FarkasResidualConv2d
"""The last layer of a residual branch, whether it or its block forms the sum."""


class ResidualBlock(nn.Module):
    """A block that adds a branch to its input, and knows the end of the branch."""

    multiplier: nn.Parameter | None
    """Of a block that forms the sum itself, like its scaling; otherwise its last layer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.scaling = UNSCALED
        self.register_parameter("multiplier", None)

    def terms(self, branch: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """The two terms of a sum that the block itself forms."""
        return self.scaling.terms(branch if self.multiplier is None else self.multiplier * branch, shortcut)

    def set_multiplier(self, start: float) -> None:
        """Multiply the branch by a number that is trained from `start` on.

        Raises:
            ValueError: a normalization stands between the branch and its sum.
        """
        layer, norm = self.branch_end()
        if not isinstance(norm, nn.Identity | None):
            raise ValueError("a normalization between a branch and its sum undoes a multiplier of its last layer")
        owner = layer if isinstance(layer, ResidualLayer) else self
        owner.multiplier = nn.Parameter(torch.tensor(start))

    def set_scaling(self, scaling: Scaling) -> None:
        """Scale the branch and the sum from now on."""
        layer, _ = self.branch_end()
        if isinstance(layer, ResidualLayer):
            layer.set_scaling(scaling)
        else:
            self.scaling = scaling

    def branch_end(self) -> tuple[BranchEnd, nn.Module | None]:
        """The last layer of the branch, and the normalization between it and the sum, if there is one."""
        raise NotImplementedError

    def projection(self) -> nn.Module | None:
        """The module on the block's shortcut, if it has a weight."""
        return None
