"""Completing a pre-activation: its last channel becomes the negative aggregate of the others.

Theorem 3.2 asks of a pre-activation z with m channels only that lambda^T z is a positive constant, wherever z comes
from. With any input s and z = (s_1, ..., s_{m-1}, b - sum_{j<m} a_j s_j), a_j = lambda_j / lambda_m,

    lambda^T z = sum_{j<m} lambda_j s_j + lambda_m b - lambda_m sum_{j<m} (lambda_j / lambda_m) s_j = lambda_m b,

so the largest z_i is at least lambda_m b, which is the cutoff or more for b >= `FarkasRule.bound`. It makes no
difference whether s is a residual sum, normalized, or the output of a depthwise, grouped or transposed convolution. The
price beside a Farkas layer is a pass over the activations, and that s_m is not used.

For a residual sum s = x + y this is Algorithm 2 without its growth: the last channel of the shortcut x is replaced
where Algorithm 2 appends one. Algorithm 2 itself is the same map, of a shortcut with one channel of zeros appended.
"""

import torch
from torch import Tensor, nn

from farkas_exp.layers.augmented import aggregate, augment_bias
from farkas_exp.layers.rule import FarkasRule, check_outputs


class FarkasCompletion(nn.Module):
    """Replaces the last of m channels, in dimension `dim`, by the bounded bias minus the aggregate of the others.

    `forward` maps (..., channels, ...) to the same shape. The bias is a trained number, bounded below; lambda is fixed
    by the rule's aggregation.

    Raises:
        ValueError: fewer than two channels.
    """

    def __init__(self, channels: int, rule: FarkasRule | None = None, dim: int = 1) -> None:
        super().__init__()
        check_outputs(channels)
        self.outputs, self.rule, self.dim = channels, rule or FarkasRule(), dim
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with a bias of 0, or at its bound, below which it would have no gradient."""
        nn.init.constant_(self.bias, max(0.0, float(self.rule.bound(self.coefficients()[1]))))

    def coefficients(self) -> tuple[float | Tensor, float | Tensor]:
        """The common coefficient a_j, and lambda_m."""
        return self.rule.coefficients(self.outputs)

    def forward(self, input: Tensor) -> Tensor:
        """The completed pre-activation.

        Raises:
            ValueError: another number of channels.
        """
        if input.shape[self.dim] != self.outputs:
            raise ValueError(
                f"a completion of {self.outputs} channels got {tuple(input.shape)}; see dimension {self.dim}"
            )
        coefficient, lambda_m = self.coefficients()
        free = input.narrow(self.dim, 0, self.outputs - 1)
        bias = augment_bias(self.bias, coefficient, self.rule.bound(lambda_m)).to(input.dtype)
        return torch.cat((free, bias - aggregate(free, coefficient, self.dim, keepdim=True)), self.dim)

    def extra_repr(self) -> str:
        return f"{self.outputs}, {self.rule.aggregation}, margin={self.rule.margin}, cutoff={self.rule.cutoff:.4g}"
