"""The augmented weight and bias of a Farkas layer: its free rows, and the aggregate that follows from them.

The plain formulas (`augment_weight`, `augment_bias`) are differentiated by autograd and are what `torch.compile` sees.
Outside of it `augment` takes them as one autograd Function with the derivative in closed form: the same values, with a
fifth of the calls, which is what small images pay for.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from farkas_exp.errors import unknown
from farkas_exp.layers.paths import fused_allowed

AGGREGATIONS: Mapping[str, Callable[[int], float]] = {
    "sum": lambda outputs: 1.0,
    "mean": lambda outputs: 1.0 / (outputs - 1),
}
"""The coefficient a_j = lambda_j / lambda_m, equal for all j < m, as a function of the number of outputs m."""


def aggregation_coefficient(aggregation: str, outputs: int) -> float:
    """The coefficient a of Agg(v) = a * sum_j v_j for a layer with `outputs` = m components.

    Raises:
        ValueError: an unknown aggregation, or fewer than two outputs.
    """
    if aggregation not in AGGREGATIONS:
        raise unknown("aggregation.name", aggregation, AGGREGATIONS)
    check_outputs(outputs)
    return AGGREGATIONS[aggregation](outputs)


def check_outputs(outputs: int) -> None:
    """Refuse a layer that is too small for Farkas' lemma (Section 3.3)."""
    if outputs < 2:
        raise ValueError(
            f"a Farkas layer needs at least 2 outputs, got {outputs}: its last component is the negative aggregate"
            " of the others, so dim(D_out) >= 2 (Section 3.3)"
        )


def aggregate(values: Tensor, coefficient: float | Tensor, dim: int = 0, keepdim: bool = False) -> Tensor:
    """Agg(v) = sum_j a_j v_j along `dim`, for one common coefficient a or one for each entry, of shape (m - 1,)."""
    if isinstance(coefficient, Tensor):
        shape = [1] * values.dim()
        shape[dim] = -1
        return (coefficient.view(shape) * values).sum(dim, keepdim=keepdim)
    total = values.sum(dim, keepdim=keepdim)
    return total if coefficient == 1.0 else total * coefficient


def augment_weight(weight: Tensor, coefficient: float | Tensor) -> Tensor:
    """cat(W, -Agg(W)): from (m - 1, ...) to (m, ...). The aggregate of a half-precision weight is formed in float32."""
    wide = weight.float() if weight.dtype in (torch.bfloat16, torch.float16) else weight
    return torch.cat((wide, aggregate(wide, coefficient, keepdim=True).neg())).to(weight.dtype)


def augment_bias(
    bias: Tensor, coefficient: float | Tensor, lambda_m: float | Tensor, margin: float = 0.0, cutoff: float = 0.0
) -> Tensor:
    """The bias (m,) with its last entry bounded below: max(t - Agg(b) + margin, b_m); see the module's text for t."""
    wide = bias.float() if bias.dtype in (torch.bfloat16, torch.float16) else bias
    bound = bias_bound(lambda_m, margin, cutoff) - aggregate(wide[:-1], coefficient, keepdim=True)
    return torch.cat((wide[:-1], torch.maximum(bound, wide[-1:]))).to(bias.dtype)


def bias_bound(lambda_m: float | Tensor, margin: float, cutoff: float) -> float | Tensor:
    """The least value of lambda^T b / lambda_m: max(c, c / lambda_m) + margin."""
    return (cutoff / lambda_m if cutoff > 0 else cutoff) + margin


class _Augment(torch.autograd.Function):
    """`augment_weight` and `augment_bias` for one common coefficient a, and their derivative in closed form.

    dW_j = dW'_j - a dW'_m; db_j = db'_j - a s db'_m and db_m = (1 - s) db'_m, where s is 1 while -Agg(b) wins the max,
    0 while b_m wins, and 1/2 at a tie (as `torch.maximum` has it).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, coefficient: float, bound: float) -> tuple[Tensor, Tensor]:
        limit = bias[:-1].sum(0, keepdim=True).mul_(-coefficient).add_(bound)
        last = bias[-1:]
        full_bias = torch.cat((bias[:-1], torch.maximum(limit, last)))
        ctx.save_for_backward(torch.heaviside(limit - last, limit.new_full((), 0.5)))
        ctx.coefficient = coefficient
        return torch.cat((weight, _row_sum(weight).mul_(-coefficient))), full_bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        # Ordinary operations, so that a second derivative is right where one is asked for.
        of_weight, of_bias = gradients
        (share,) = ctx.saved_tensors
        to_weight = to_bias = None
        if ctx.needs_input_grad[0]:
            to_weight = torch.sub(of_weight[:-1], of_weight[-1:], alpha=ctx.coefficient)
        if ctx.needs_input_grad[1]:
            last = of_bias[-1:]
            through = last * share
            to_bias = torch.cat((torch.sub(of_bias[:-1], through, alpha=ctx.coefficient), last - through))
        return to_weight, to_bias, None, None


def _row_sum(weight: Tensor) -> Tensor:
    """The sum of the rows, (1, ...). A channels_last filter is summed in the order of its memory: ten times faster."""
    if weight.dim() == 4 and not weight.is_contiguous():
        return weight.permute(0, 2, 3, 1).flatten(1).sum(0).view(1, *weight.shape[2:], -1).permute(0, 3, 1, 2)
    return weight.sum(0, keepdim=True)


def augment(
    weight: Tensor,
    bias: Tensor,
    coefficient: float | Tensor,
    lambda_m: float | Tensor,
    margin: float = 0.0,
    cutoff: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """`augment_weight` and `augment_bias`, by the fast path where there is one; `layers.plain_path` switches it off."""
    bound = bias_bound(lambda_m, margin, cutoff)
    fast = (
        isinstance(coefficient, float) and isinstance(bound, float) and weight.dtype in (torch.float32, torch.float64)
    )
    if fast and not torch.compiler.is_compiling() and fused_allowed():
        return _Augment.apply(weight, bias, coefficient, bound)  # type: ignore[no-any-return]
    return augment_weight(weight, coefficient), augment_bias(bias, coefficient, lambda_m, margin, cutoff)
