"""Farkas convolutions on a CPU whose cost grows with the channels themselves, by a kernel compiled at its first use.

A residual Farkas block adds one channel: 17, 18, ... Libraries put channels into vector lanes, so 17 of them cost what
24 (AVX2) or 32 (AVX-512) do. `native_conv.cpp` puts images into the lanes. For that a tensor (N, C, H, W) lies in
memory as (C, H, W, N), here called batch-last; it is an ordinary tensor, so every operation of PyTorch takes it, and
element-wise ones keep its order. A network calls `to_batch_last` on its images; the layers behind it follow the format
they are given, and work as ever on any other.

The kernel computes the free rows alone. With z = W x (+ shortcut) its last channel is -a sum_j z_j + b_m, which costs
one addition for each z_j instead of a convolution.

It serves float32 outside of autocast, `torch.compile` and `layers.plain_path`; FARKAS_EXP_NATIVE=0 in the environment
switches it off. Results do not depend on the number of threads.
"""

import ctypes
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from farkas_exp.layers.native_library import available, lanes, library, share_out
from farkas_exp.layers.paths import fused_allowed

BUFFER = 1 << 13
"""Vectors in the working space of a band: 1 MB with 16 lanes."""
GRADIENT_POSITIONS = 256
STACK = 2
PIECE = 4096


def to_batch_last(images: Tensor) -> Tensor:
    """The images in the batch-last memory format if the native convolution can be used on them, else as they are."""
    if torch.compiler.is_compiling() or type(images) is not Tensor or images.dim() != 4:
        return images
    if images.device.type != "cpu" or images.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not fused_allowed() or not available():
        return images
    if len(images) == 0 or len(images) % lanes():
        return images
    return _batch_last(images)


def is_batch_last(tensor: Tensor) -> bool:
    """Whether a tensor (N, C, H, W) lies in memory as (C, H, W, N)."""
    if tensor.dim() != 4:
        return False
    images, _, height, width = tensor.shape
    return tensor.stride() == (1, height * width * images, width * images, images) and images > 1


def _batch_last(tensor: Tensor) -> Tensor:
    return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def spatial_mean(maps: Tensor) -> Tensor:
    """The mean over the positions, (N, C), with a gradient in the memory format of the maps (N, C, H, W)."""
    if is_batch_last(maps):
        return maps.permute(1, 2, 3, 0).flatten(1, 2).mean(1).t()
    return maps.mean((2, 3))


def suits(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> bool:
    """Whether `convolve` can compute this convolution: batch-last, 1x1 or 3x3, and of the same size."""
    if torch.compiler.is_compiling() or not (is_batch_last(input) and input.dtype == weight.dtype == torch.float32):
        return False
    kernel = weight.shape[2]
    if kernel not in (1, 3) or weight.shape[3] != kernel or padding not in (kernel // 2, (kernel // 2,) * 2):
        return False
    if stride not in (1, (1, 1)) or dilation not in (1, (1, 1)):
        return False
    return input.device.type == "cpu" and fused_allowed() and available() and len(input) % lanes() == 0


def convolve(
    input: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, coefficient: float, bound: float, relu: bool
) -> Tensor:
    """A Farkas convolution, or Algorithm 2 with a shortcut, with or without the ReLU; see `suits`.

    Args:
        input: (N, C, H, W), batch-last.
        weight: (m - 1, C, k, k), the free rows.
        bias: (m,), before its last entry is bounded.
        shortcut: (N, m - 1, H, W).
        coefficient: the aggregation's a.
        bound: the least value of b_m + Agg(b).
        relu: whether to apply it.

    Returns:
        (N, m, H, W), batch-last.
    """
    return _Convolve.apply(input, weight, bias, shortcut, coefficient, bound, relu)  # type: ignore[no-any-return]


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None,
        coefficient: float, bound: float, relu: bool,
    ) -> Tensor:  # fmt: skip
        if shortcut is not None and not is_batch_last(shortcut):
            shortcut = _batch_last(shortcut)
        limit = bias[:-1].sum(0, keepdim=True).mul_(-coefficient).add_(bound)
        full_bias = torch.cat((bias[:-1], torch.maximum(limit, bias[-1:])))
        output = _forward(input, weight, full_bias, shortcut, coefficient, relu)
        ctx.save_for_backward(input, weight, bias, shortcut, output if relu else None)
        ctx.rule = coefficient, bound
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, bias, shortcut, output = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():  # a second derivative is asked for
            return _differentiable_gradients(ctx, gradients[0])
        coefficient, bound = ctx.rule
        gradient = gradients[0] if is_batch_last(gradients[0]) else _batch_last(gradients[0])
        to_sum, of_bias = _through_epilogue(gradient, output, coefficient)
        to_input = _to_input(to_sum, weight) if needs[0] else None
        to_weight = _to_weight(input, to_sum, weight) if needs[1] else None
        to_bias = _to_bias(of_bias, bias, coefficient, bound) if needs[2] else None
        return to_input, to_weight, to_bias, to_sum if needs[3] else None, None, None, None


def _differentiable_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by PyTorch's operations, which can be differentiated again."""
    input, weight, bias, shortcut, output = ctx.saved_tensors
    coefficient, bound = ctx.rule
    z = F.conv2d(input, weight, padding=weight.shape[2] // 2)
    z = z if shortcut is None else z + shortcut
    last = torch.maximum(bound - coefficient * bias[:-1].sum(0, keepdim=True), bias[-1:])
    z = torch.cat((z, -coefficient * z.sum(1, keepdim=True)), 1) + torch.cat((bias[:-1], last)).view(-1, 1, 1)
    wanted = [t for t, needed in zip((input, weight, bias, shortcut), ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(z if output is None else z.relu(), wanted, gradient, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)


def _layer(input: Tensor, outputs: int, kernel: int, strides: tuple[int, ...], positions: int) -> ctypes.Array:  # type: ignore[type-arg]
    """The kernel's description of a layer, with bands of at most about `positions`."""
    images, inputs, height, width = input.shape
    stack = min(images // lanes(), max(STACK, positions // (height * width)))
    rows = min(height, max(1, positions // stack // (width + kernel - 1)))
    numbers = (images, inputs, outputs, height, width, kernel, *strides, rows, stack)
    return (ctypes.c_longlong * len(numbers))(*numbers)


def _bands(layer: Any) -> int:
    """The number of items of a convolution: bands of rows, for each stack of blocks of images."""
    images, height, rows, stack = layer[0], layer[3], layer[10], layer[11]
    return -(-images // (stack * lanes())) * -(-height // rows)


def _forward(
    input: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, coefficient: float, relu: bool
) -> Tensor:
    images, inputs, height, width = input.shape
    outputs, kernel = len(weight), weight.shape[2]
    output = input.new_empty(outputs + 1, height, width, images)
    layer = _layer(input, outputs, kernel, weight.stride(), BUFFER // inputs)
    at = (input.data_ptr(), weight.data_ptr(), bias.data_ptr(), None if shortcut is None else shortcut.data_ptr())

    def part(first: int, last: int) -> int:
        return library().farkas_convolve(*at, coefficient, int(relu), output.data_ptr(), layer, first, last)  # type: ignore[union-attr]

    share_out(part, _bands(layer), output.numel() * weight[0].numel())
    return output.permute(3, 0, 1, 2)


def _to_input(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient with respect to the input: the convolution with the transposed, mirrored weight."""
    images, outputs, height, width = gradient.shape
    inputs, kernel = weight.shape[1:3]
    result = gradient.new_empty(inputs, height, width, images)
    of_output, of_input, of_row, of_column = weight.stride()
    layer = _layer(gradient, inputs, kernel, (of_input, of_output, -of_row, -of_column), BUFFER // outputs)
    corner = weight.data_ptr() + 4 * (kernel - 1) * (of_row + of_column)

    def part(first: int, last: int) -> int:
        return library().farkas_convolve(  # type: ignore[union-attr]
            gradient.data_ptr(), corner, None, None, 0.0, 0, result.data_ptr(), layer, first, last
        )

    share_out(part, _bands(layer), result.numel() * weight[:, 0].numel())
    return result.permute(3, 0, 1, 2)


def _to_weight(input: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient with respect to the weight, in its memory format."""
    result = torch.empty_like(weight)
    layer = _layer(input, len(weight), weight.shape[2], result.stride(), GRADIENT_POSITIONS)

    def part(first: int, last: int) -> int:
        return library().farkas_weight_gradient(  # type: ignore[union-attr]
            input.data_ptr(), gradient.data_ptr(), result.data_ptr(), layer, first, last
        )

    share_out(part, len(weight), gradient.numel() * weight[0].numel())
    return result


def _through_epilogue(gradient: Tensor, output: Tensor | None, coefficient: float) -> tuple[Tensor, Tensor]:
    """From the gradient of the output (m channels) to that of z (m - 1), and that of the bounded bias."""
    images, channels, height, width = gradient.shape
    result = gradient.new_empty(channels - 1, height, width, images)
    plane = height * width * images
    pieces = math.ceil(plane / PIECE)
    sums = gradient.new_empty(pieces, channels)

    def part(first: int, last: int) -> int:
        return library().farkas_epilogue_gradient(  # type: ignore[union-attr]
            gradient.data_ptr(), None if output is None else output.data_ptr(), coefficient, result.data_ptr(),
            sums.data_ptr(), channels, plane, PIECE, first, last,
        )  # fmt: skip

    share_out(part, pieces, 4 * gradient.numel())
    return result.permute(3, 0, 1, 2), sums.sum(0)


def _to_bias(of_bias: Tensor, bias: Tensor, coefficient: float, bound: float) -> Tensor:
    """The gradient of the bias from that of the bounded one; see `augmented._Augment`."""
    limit = bias[:-1].sum(0, keepdim=True).mul_(-coefficient).add_(bound)
    share = torch.heaviside(limit - bias[-1:], limit.new_full((), 0.5))
    through = of_bias[-1:] * share
    return torch.cat((torch.sub(of_bias[:-1], through, alpha=coefficient), of_bias[-1:] - through))
