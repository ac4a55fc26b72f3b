"""Farkas layers: linear and convolutional layers with at least one active unit (Section 3 of the paper).

A Farkas layer with m outputs has m - 1 free weight rows; the last row is the negative aggregate of the others, and the
last bias is bounded below. With lambda on the simplex and a_j = lambda_j / lambda_m, Theorem 3.2 reads

    w_m = -Agg(w) = -sum_{j<m} a_j w_j,    b_m >= -Agg(b),

so that lambda^T (W x + b) = lambda^T b >= 0 for every input x, and the largest pre-activation is at least lambda^T b.
`sum` has a_j = 1 (lambda_j = 1/m), `mean` a_j = 1/(m-1) (lambda_j = 1/(2(m-1)), lambda_m = 1/2).

The aggregation commutes with the linear map, -Agg(W x) = (-Agg(W)) x, so each layer here is a single linear map or
convolution with the augmented weight cat(W, -Agg(W)); no extra pass over the activations is needed. For a convolution
the statement holds at every position, zero padding included, because the relation is linear in the patch.

The last bias is max(t - Agg(b) + margin, b_m), with the threshold t = max(c, c / lambda_m) for a cutoff c:

- c = 0, margin = 0 is the paper's Algorithm 1. Its max gives >= where the theorem asks for >: while the first argument
  wins, lambda^T b = 0 and all pre-activations can be zero (they are when W and b are). A margin makes it strict: the
  largest pre-activation is then at least c + lambda_m * margin.
- Corollary 3.3 states b_m > c - Agg(b). That gives max_i z_i > lambda_m c only: enough for c <= 0, where
  lambda_m c >= c, but not for c > 0. (Two outputs, `sum`, c = 1, w = 1, b = (0, 1.1): at x = 0.55 both pre-activations
  are 0.55 < 1.) For c > 0 the threshold is therefore c / lambda_m, which gives max_i z_i >= c.

While the first argument of the max wins, b_m has no gradient.
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farkas_exp.layers.augmented import augment_bias, augment_weight
from farkas_exp.layers.rule import FarkasRule, check_outputs
from farkas_exp.layers.standardization import Standardizable

ALGORITHM_1 = FarkasRule()
"""The paper's Algorithm 1: the aggregation `sum`, without a margin, for an activation with the cutoff 0."""


def augmented_parameters(
    weight: Tensor, bias: Tensor, rule: FarkasRule = ALGORITHM_1, simplex: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The weight (m, ...) and bias (m,) that satisfy Theorem 3.2, from a free weight (m - 1, ...) and bias (m,).

    Raises:
        ValueError: fewer than two outputs, or sizes of weight and bias that do not fit.
    """
    outputs = bias.shape[0]
    coefficient, lambda_m = rule.coefficients(outputs, simplex)
    if weight.shape[0] != outputs - 1:
        raise ValueError(f"a Farkas layer with {outputs} biases has {outputs - 1} weight rows, got {weight.shape[0]}")
    return augment_weight(weight, coefficient), augment_bias(bias, coefficient, rule.bound(lambda_m))


def farkas_linear(
    input: Tensor, weight: Tensor, bias: Tensor, rule: FarkasRule = ALGORITHM_1, simplex: Tensor | None = None
) -> Tensor:
    """The pre-activations of a Farkas linear layer (Algorithm 1 without its ReLU).

    Args:
        input: (..., n).
        weight: (m - 1, n), the free rows.
        bias: (m,).
        rule: how the last component follows from the others.
        simplex: lambda itself, (m,), positive with sum 1; replaces the rule's aggregation.

    Returns:
        (..., m), with at least one component >= `rule.cutoff` for every sample.
    """
    return F.linear(input, *augmented_parameters(weight, bias, rule, simplex))


def farkas_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    rule: FarkasRule = ALGORITHM_1,
    simplex: Tensor | None = None,
) -> Tensor:
    """The pre-activations of a Farkas convolution (Algorithm 1 without its ReLU).

    Args:
        input: (N, C_in, H, W).
        weight: (m - 1, C_in, k_h, k_w), the free filters.
        bias: (m,).
        stride: as in `torch.nn.functional.conv2d`, like `padding` and `dilation`.
        padding: zero padding.
        dilation: spacing of the kernel.
        rule: as in `farkas_linear`, like `simplex`.
        simplex: see there.

    Returns:
        (N, m, H', W'), with at least one component >= `rule.cutoff` for every sample at every position.
    """
    full_weight, full_bias = augmented_parameters(weight, bias, rule, simplex)
    return F.conv2d(input, full_weight, full_bias, stride, padding, dilation)


class FarkasLayer(Standardizable):
    """What Farkas layers share: m - 1 free weight rows, m biases, and the rule for the last component.

    With `learn_lambda`, lambda = softmax(`lambda_logits`) is trained too, from the chosen aggregation on.
    """

    bias: nn.Parameter
    lambda_logits: nn.Parameter | None

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        rule: FarkasRule,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if not all(isinstance(size, Integral) and size > 0 for size in weight_shape):
            raise ValueError(f"a Farkas layer's sizes are whole numbers of at least 1, got weights of {weight_shape}")
        self.rule, self.outputs = rule, weight_shape[0] + 1
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.outputs, device=device, dtype=dtype))
        logits = torch.empty(self.outputs, device=device, dtype=dtype) if rule.learn_lambda else None
        self.register_parameter("lambda_logits", None if logits is None else nn.Parameter(logits))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight and all m biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default."""
        bound = 1.0 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        if self.lambda_logits is not None:
            # softmax gives a_j = exp(l_j - l_m), so this is the chosen aggregation
            nn.init.zeros_(self.lambda_logits)
            with torch.no_grad():
                self.lambda_logits[-1] = -math.log(self.rule.coefficient(self.outputs))

    def simplex(self) -> Tensor | None:
        """The learned lambda, (m,), or None where the aggregation is fixed."""
        return None if self.lambda_logits is None else self.lambda_logits.softmax(0)

    def coefficients(self) -> tuple[float | Tensor, float | Tensor]:
        """The coefficients a_j = lambda_j / lambda_m (one for all, or (m - 1,)), and lambda_m."""
        return self.rule.coefficients(self.outputs, self.simplex())

    def free(self) -> tuple[Tensor, Tensor]:
        """The free rows (m - 1, ...) and the bias (m,) before its last entry is bounded, as the layer uses them."""
        return self.used_weight(), self.bias

    def augmented(self) -> tuple[Tensor, Tensor]:
        """The full weight (m, ...) and bias (m,) that the layer applies."""
        return augmented_parameters(*self.free(), self.rule, self.simplex())

    def extra_repr(self) -> str:
        shape = "x".join(map(str, self.weight.shape[1:]))
        rule = self.rule
        lam = ", learn_lambda=True" if rule.learn_lambda else ""
        return f"{shape} -> {self.outputs}, {rule.aggregation}, margin={rule.margin}, cutoff={rule.cutoff:.4g}{lam}"


class FarkasLinear(FarkasLayer):
    """A Farkas linear layer, a drop-in for `nn.Linear` (Algorithm 1): returns pre-activations.

    `forward` maps (..., in_features) to (..., out_features); see `farkas_linear`. The fields of the rule may be given
    directly: `FarkasLinear(4, 8, aggregation="mean")`.

    Raises:
        ValueError: `out_features` < 2 (Section 3.3), an unknown aggregation, or a negative margin.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rule: FarkasRule | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        check_outputs(out_features)
        shape = (out_features - 1, in_features)
        super().__init__(shape, FarkasRule.of(rule, options), device, dtype)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) to the pre-activations (..., out_features)."""
        return F.linear(input, *self.augmented())


class FarkasConv2d(FarkasLayer):
    """A Farkas convolution, a drop-in for `nn.Conv2d` (Algorithm 1): returns pre-activations.

    `forward` maps (N, in_channels, H, W) to (N, out_channels, H', W'); see `farkas_conv2d`. The
    fields of the rule may be given directly, as for `FarkasLinear`.

    Raises:
        ValueError: `out_channels` < 2 (Section 3.3), an unknown aggregation, or a negative margin.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        rule: FarkasRule | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        check_outputs(out_channels)
        kernel = tuple(kernel_size) if isinstance(kernel_size, Sequence) else (kernel_size, kernel_size)
        if len(kernel) != 2:
            raise ValueError(f"kernel_size: expected a whole number or two of them, got {kernel_size!r}")
        shape = (out_channels - 1, in_channels, *kernel)
        super().__init__(shape, FarkasRule.of(rule, options), device, dtype)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, cast(tuple[int, int], kernel)
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, input: Tensor) -> Tensor:
        """(N, in_channels, H, W) to the pre-activations (N, out_channels, H', W')."""
        return F.conv2d(input, *self.augmented(), self.stride, self.padding, self.dilation)  # type: ignore[arg-type]
