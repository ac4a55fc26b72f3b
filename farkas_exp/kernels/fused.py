"""The augmented weight, and the end of a residual block, each as one autograd Function.

They compute the plain formulas in a third of the calls, which cost most for small images and on GPUs. They need a fixed
lambda and float32 or float64; `torch.compile` gets the plain formulas, which it fuses itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from farkas_exp.kernels.swapping import Swapped, is_watched, swap_classes
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.farkas import FarkasConv2d, FarkasLayer, FarkasLinear
from farkas_exp.layers.paths import fused_allowed
from farkas_exp.layers.residual import FarkasResidualConv2d, append_shortcut


class Augment(torch.autograd.Function):
    """`augment_weight` and `augment_bias` for one common coefficient a, and their derivative in closed form.

    dW_j = dW'_j - a dW'_m; db_j = db'_j - a s db'_m and db_m = (1 - s) db'_m, where s is 1 while -Agg(b) wins the max,
    0 while b_m wins, and 1/2 at a tie (as `torch.maximum` has it).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, coefficient: float, bound: float) -> tuple[Tensor, Tensor]:
        """Weight (m - 1, ...) and bias (m,) to (m, ...) and (m,)."""
        limit = bias[:-1].sum(0, keepdim=True).mul_(-coefficient).add_(bound)
        last = bias[-1:]
        full_bias = torch.cat((bias[:-1], torch.maximum(limit, last)))
        ctx.save_for_backward(torch.heaviside(limit - last, limit.new_full((), 0.5)))
        ctx.coefficient = coefficient
        return torch.cat((weight, _row_sum(weight).mul_(-coefficient))), full_bias

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Use ordinary operations, which can be differentiated again."""
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
    """The sum of the rows, (1, ...); of a channels_last filter in memory order, which is ten times faster."""
    if weight.dim() == 4 and not weight.is_contiguous():
        return weight.permute(0, 2, 3, 1).flatten(1).sum(0).view(1, *weight.shape[2:], -1).permute(0, 3, 1, 2)
    return weight.sum(0, keepdim=True)


class AppendShortcutReLU(torch.autograd.Function):
    """relu(append_shortcut(branch, shortcut, a)) in place on the branch, and its derivative, with one pass each."""

    @staticmethod
    def forward(ctx: Any, branch: Tensor, shortcut: Tensor, coefficient: float) -> Tensor:
        """Branch (N, c + 1, ...) and shortcut (N, c, ...) to the block's output."""
        branch[:, :-1].add_(shortcut)
        branch[:, -1].sub_(shortcut.sum(1), alpha=coefficient)
        branch.relu_()
        ctx.mark_dirty(branch)
        ctx.save_for_backward(branch)
        ctx.coefficient = coefficient
        return branch

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Use ordinary operations, which can be differentiated again."""
        (output,) = ctx.saved_tensors
        masked = torch.ops.aten.threshold_backward(gradients[0], output, 0)
        if not ctx.needs_input_grad[1]:
            return masked, None, None
        return masked, torch.sub(masked[:, :-1], masked[:, -1:], alpha=ctx.coefficient), None


class FusedLayer(Swapped, FarkasLayer):
    """A Farkas layer that augments its weight and bias by `Augment`, unless they are given (`whole_network`)."""

    given: tuple[Tensor, Tensor] | None = None

    def augmented(self) -> tuple[Tensor, Tensor]:
        if not allowed(self) or self.weight.dtype not in (torch.float32, torch.float64):
            return super().augmented()
        if self.given is not None:
            return self.given
        return Augment.apply(*self.free(), *constants(self))  # type: ignore[no-any-return]


class FusedFarkasLinear(FusedLayer, FarkasLinear):
    """A Farkas linear layer with one Function for its augmentation."""

    plain = FarkasLinear


class FusedFarkasConv2d(FusedLayer, FarkasConv2d):
    """A Farkas convolution with one Function for its augmentation."""

    plain = FarkasConv2d


class FusedFarkasResidualConv2d(FusedLayer, FarkasResidualConv2d):
    """The end of a residual branch, with one Function for its augmentation and one for sum and ReLU."""

    plain = FarkasResidualConv2d

    def activate(self, hidden: Tensor, shortcut: Tensor, activation: Activation) -> Tensor:
        """activation(forward(hidden, shortcut)); if fused, neither is called as a module."""
        if not allowed(self) or not is_plain_relu(activation):
            return super().activate(hidden, shortcut, activation)
        branch, shortcut = self.scaling.terms(self.branch(hidden), shortcut)
        coefficient, _ = constants(self)
        if branch.dtype != shortcut.dtype:
            return activation(append_shortcut(branch, shortcut, coefficient))
        return AppendShortcutReLU.apply(branch, shortcut, coefficient)  # type: ignore[no-any-return]


def allowed(layer: FarkasLayer) -> bool:
    """Whether a kernel may replace a layer here and now."""
    return fused_allowed() and not layer.rule.learn_lambda and not is_watched(layer)


def constants(layer: FarkasLayer) -> tuple[float, float]:
    """The aggregation's a and the least value of b_m + Agg(b), for a fixed lambda."""
    coefficient, lambda_m = layer.coefficients()
    bound = layer.rule.bound(lambda_m)
    assert isinstance(coefficient, float)
    assert isinstance(bound, float)
    return coefficient, bound


def gradients_of(
    output: Tensor, inputs: Sequence[Tensor | None], needed: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of those inputs that are needed, by PyTorch's operations, which can be differentiated again."""
    wanted: list[Any] = [tensor for tensor, is_needed in zip(inputs, needed, strict=True) if is_needed]
    found = iter(torch.autograd.grad(output, wanted, gradient, create_graph=True))
    return tuple(next(found) if is_needed else None for is_needed in needed)


def keeps_size(layer: Any) -> bool:
    """Whether a convolution is 1x1 or 3x3, dense, and keeps the size of its maps."""
    *_, kernel, width = layer.weight.shape
    if kernel not in (1, 3) or width != kernel or layer.padding not in (kernel // 2, (kernel // 2,) * 2):
        return False
    return layer.stride in (1, (1, 1)) and layer.dilation in (1, (1, 1))


def is_plain_relu(activation: nn.Module) -> bool:
    """Whether an activation is just the ReLU, which a kernel can include."""
    if type(activation) is not Activation or activation.name != "relu" or activation.dropout:
        return False
    return not is_watched(activation)


def swap(model: nn.Module, device: torch.device) -> None:
    """Give the Farkas layers of `model` the classes above, which are faster at every size and on every device."""
    kinds = (FusedFarkasLinear, FusedFarkasConv2d, FusedFarkasResidualConv2d)
    swap_classes(model, {kind.plain: kind for kind in kinds})
