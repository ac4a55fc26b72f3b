"""Residual networks on a GPU whose convolutions include bias, shortcut, aggregate and ReLU (`triton_conv`).

Maps keep their shapes, and modules their parameters, so parts without such a kernel (normalizations, strided
convolutions, the head) work as before.
"""

import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from farkas_exp.kernels import whole_network
from farkas_exp.kernels.forking import ForkingBasicBlock, ForkingBottleneck, ForkingUnit
from farkas_exp.kernels.fused import (
    FusedFarkasConv2d,
    FusedFarkasResidualConv2d,
    allowed,
    constants,
    gradients_of,
    is_plain_relu,
    keeps_size,
)
from farkas_exp.kernels.swapping import Swapped, is_watched, swap_classes
from farkas_exp.layers.activation import Activation
from farkas_exp.layers.paths import fused_allowed, tf32_in_convolutions
from farkas_exp.layers.residual import UNSCALED, ResidualConv2d, append_shortcut, multiplied
from farkas_exp.models.resnet import ResidualNet, Transition

WEIGHT_ROW = 16
"""Inputs that a filter's tap is padded to a multiple of, for which Triton reads vectors."""
MOST_VALUES = 2**31
"""Of maps, whose places are counted in 32 bits."""


class OnePass(torch.autograd.Function):
    """relu(conv(input) + bias + shortcut with its aggregate), and the input for a second use, as one step each way."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, shortcut: Tensor | None,
        coefficient: float | None, relu: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """As `triton_conv.convolve` has them, `shortcut` its `added`."""
        kernels, found = _kernels(), precision_here()
        assert found is not None
        precision, dtype = found
        rows, added = kernels.in_rows(input), None if shortcut is None else kernels.in_rows(shortcut)
        output = kernels.convolve(rows, weight, bias, added, coefficient, relu=relu, precision=precision, dtype=dtype)
        ctx.save_for_backward(rows, weight, bias, shortcut, output)
        ctx.rule = coefficient, relu, precision
        ctx.set_materialize_grads(False)
        return output, input.view_as(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Use ordinary operations where the result has to be differentiated again."""
        gradient, extra = gradients
        if gradient is None:
            return extra, None, None, None, None, None
        if torch.is_grad_enabled():
            to_input, *others = _differentiable_gradients(ctx, gradient)
            to_input = to_input if extra is None or to_input is None else to_input + extra
            return to_input, *others, None, None
        kernels = _kernels()
        input, weight, bias, shortcut, output = ctx.saved_tensors
        coefficient, relu, precision = ctx.rule
        added = 0 if shortcut is None else shortcut.shape[1]
        needs = ctx.needs_input_grad
        masked, to_shortcut = kernels.through_relu(gradient, output, added, coefficient if needs[3] else None, relu)
        if needs[3] and to_shortcut is None:
            to_shortcut = masked
        to_input = to_weight = to_bias = None
        if needs[0]:
            more = None if extra is None else kernels.in_rows(extra)
            to_input = kernels.convolve(
                masked, weight, None, more, None, relu=False, precision=precision, dtype=input.dtype, flipped=True
            )
        if needs[1] or needs[2]:
            to_weight, to_bias = kernels.weight_gradients(input, masked, weight.shape[2], precision)
        return to_input, to_weight, None if bias is None else to_bias, to_shortcut, None, None


def _differentiable_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of input, weight, bias and shortcut by PyTorch's operations."""
    input, weight, bias, shortcut, _ = ctx.saved_tensors
    coefficient, relu, _ = ctx.rule
    with torch.autocast(input.device.type, enabled=False):
        z = F.conv2d(input.float(), weight.float(), bias, padding=weight.shape[2] // 2)
    if shortcut is not None:
        z = z + shortcut if coefficient is None else append_shortcut(z, shortcut.float(), coefficient)
    z = z.relu() if relu else z
    return gradients_of(z, (input, weight, bias, shortcut), ctx.needs_input_grad[:4], gradient.to(z.dtype))


def one_pass(
    input: Tensor, weight: Tensor, bias: Tensor | None, shortcut: Tensor | None = None,
    coefficient: float | None = None, relu: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The output of `OnePass`, and the input for a second use, whose gradient the kernel adds."""
    return OnePass.apply(input, weight, bias, shortcut, coefficient, relu)  # type: ignore[no-any-return]


def _kernels() -> ModuleType:
    """The Triton kernels, which only a GPU's machine may have."""
    from farkas_exp.kernels import triton_conv

    return triton_conv


def precision_here() -> tuple[str, torch.dtype] | None:
    """How the kernels multiply here and now, and the dtype of their maps; None in float32 and float16.

    In float32 the library is as fast: multiplied by three TF32 products, whose errors were those of its own, the steps
    of a ResNet34 took 0.77 times as long, those of a FarkasNet34 1.25 times.
    """
    if torch.is_autocast_enabled("cuda"):
        return ("bf16", torch.bfloat16) if torch.get_autocast_dtype("cuda") == torch.bfloat16 else None
    return ("tf32", torch.float32) if tf32_in_convolutions() else None


def suits(input: Tensor, layer: Any) -> bool:
    """Whether `one_pass` can compute a convolution here and now: on a GPU, 1x1 or 3x3, and of the same size."""
    found, weight = precision_here(), layer.weight
    if not input.is_cuda or found is None or type(input) is not Tensor or weight.dtype != torch.float32:
        return False
    if not fused_allowed() or is_watched(layer) or input.dtype not in (torch.float32, found[1]):
        return False
    values = len(input) * input.shape[2] * input.shape[3] * (max(input.shape[1], weight.shape[0]) + 8)
    return keeps_size(layer) and 0 < values < MOST_VALUES


class OnePassUnit(ForkingUnit):
    """A unit whose convolution includes its ReLU."""

    def fork(self, input: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.layer
        plain = type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros"
        included = is_plain_relu(self.activation) and (self.norm_after or isinstance(self.norm, nn.Identity))
        if included and (plain or (isinstance(layer, FusedFarkasConv2d) and allowed(layer))):
            assert isinstance(layer, (nn.Conv2d, FusedFarkasConv2d))  # no union: PyTorch 2.6 traces none
            if suits(input, layer):
                weight, bias = (layer.weight, layer.bias) if isinstance(layer, nn.Conv2d) else layer.augmented()
                hidden, input = one_pass(input, weight, bias)
                return self.norm(hidden), input
        return super().fork(input)


class OnePassTransition(Swapped, Transition):
    """A transition that pools maps as they are made here."""

    plain = Transition

    def forward(self, input: Tensor) -> Tensor:
        maps = self.project(input)
        known = maps.is_cuda and fused_allowed() and not is_watched(self.pool)
        if known and maps.shape[2] % 2 == maps.shape[3] % 2 == 0 and maps.dtype in (torch.float32, torch.bfloat16):
            kernels = _kernels()
            if kernels.is_aligned(maps):
                return kernels.Pool.apply(maps)
        return self.pool(maps)


class OnePassResidualConv2d(Swapped, ResidualConv2d):
    """The end of a residual branch, with shortcut and ReLU in the kernel."""

    plain = ResidualConv2d

    def activate(self, hidden: Tensor, shortcut: Tensor, activation: Activation) -> Tensor:
        fits = self.scaling == UNSCALED and self.groups == 1 and self.padding_mode == "zeros"
        if fits and is_plain_relu(activation) and suits(hidden, self):
            return one_pass(hidden, *multiplied(self.used_weight(), self.bias, self.multiplier), shortcut)[0]
        return super().activate(hidden, shortcut, activation)


class OnePassFarkasResidualConv2d(FusedFarkasResidualConv2d):
    """The Farkas end of a residual branch, with shortcut, aggregate and ReLU in the kernel."""

    def activate(self, hidden: Tensor, shortcut: Tensor, activation: Activation) -> Tensor:
        fits = allowed(self) and self.scaling == UNSCALED and is_plain_relu(activation)
        if fits and suits(hidden, self):
            return one_pass(hidden, *self.augmented(), shortcut, constants(self)[0])[0]
        return super().activate(hidden, shortcut, activation)


CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    FusedFarkasResidualConv2d: OnePassFarkasResidualConv2d,
    **{kind.plain: kind for kind in (OnePassUnit, ForkingBasicBlock, ForkingBottleneck)},
    **{kind.plain: kind for kind in (OnePassTransition, OnePassResidualConv2d)},
}


def swap(model: nn.Module, device: torch.device) -> None:
    """Give residual networks in `model` the classes above, on a GPU whose machine has Triton."""
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        for net in [module for module in model.modules() if isinstance(module, ResidualNet)]:
            swap_classes(net, CLASSES)
        if together := whole_network.of_model(model):
            together.casts, together.row = False, WEIGHT_ROW  # the kernel casts
