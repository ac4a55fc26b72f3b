"""The augmented weight and bias of a Farkas layer: its free rows, and the aggregate that follows from them."""

import torch
from torch import Tensor


def sum_coefficient(outputs: int) -> float:
    """The a_j = lambda_j / lambda_m of the aggregation `sum`, equal for all j < m."""
    return 1.0


def mean_coefficient(outputs: int) -> float:
    """The a_j of the aggregation `mean` over the m - 1 free components."""
    return 1.0 / (outputs - 1)


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


def augment_bias(bias: Tensor, coefficient: float | Tensor, bound: float | Tensor) -> Tensor:
    """The bias (m,) with its last entry bounded below, max(bound - Agg(b), b_m); `FarkasRule.bound` gives the bound."""
    wide = bias.float() if bias.dtype in (torch.bfloat16, torch.float16) else bias
    least = bound - aggregate(wide[:-1], coefficient, keepdim=True)
    return torch.cat((wide[:-1], torch.maximum(least, wide[-1:]))).to(bias.dtype)
