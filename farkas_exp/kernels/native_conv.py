"""Farkas convolutions on a CPU that do not pay for unused vector lanes, by a kernel compiled at its first use.

A residual Farkas block adds one channel: 17, 18, ... Libraries put channels into vector lanes, so that 17 cost as much
as 24 (AVX2) or 32 (AVX-512). `native_conv.cpp` puts images into the lanes: a tensor (N, C, H, W) lies in memory as
(C, H, W, N), here called batch-last. It is an ordinary tensor, so every operation of PyTorch takes it, and element-wise
ones keep its order. `batch_last` says which networks use it.

The kernel computes the free rows alone. With z = W x (+ shortcut) its last channel is -a sum_j z_j + b_m, which costs
one addition for each z_j instead of a convolution.

It needs float32 outside of autocast, `torch.compile` and `layers.paths.plain_path`; the environment variable
FARKAS_EXP_NATIVE=0 switches it off. Results are bitwise reproducible for the same number of threads.
"""

import ctypes
import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from farkas_exp.kernels.fused import gradients_of
from farkas_exp.kernels.native_library import call, lanes

BUFFER = 3 << 13
"""Vectors in the working space of a band: 1.5 MB with 16 lanes, to stay in a second-level cache."""
TOGETHER = 32
"""Images in a band: 128 consecutive bytes. A multiple of the lanes."""
CHUNK = 1 << 15
"""Pixels of a channel in a chunk of the batch, about 32 images of 32x32."""
WORTH_A_THREAD = 2e6
"""The least multiply-adds of a layer that threads share."""


def batch_last_chunks(images: Tensor) -> list[Tensor]:
    """The images, a multiple of the lanes, in chunks of the batch-last memory format.

    Chunks are small, since more images move the vectors of a block of them further apart in memory.
    """
    size = TOGETHER * max(1, CHUNK // (TOGETHER * images[0, 0].numel()))
    return [_as_batch_last(chunk) for chunk in images.split(size)]


def is_batch_last(tensor: Tensor) -> bool:
    """Whether a tensor (N, C, H, W) lies in memory as (C, H, W, N)."""
    if tensor.dim() != 4:
        return False
    return tensor.stride() == _batch_last_strides(tensor) and len(tensor) > 1


def _batch_last_strides(like: Tensor) -> tuple[int, int, int, int]:
    """The strides of (C, H, W, N) in memory, for any number of channels."""
    images, _, height, width = like.shape
    return 1, height * width * images, width * images, images


def _as_batch_last(tensor: Tensor) -> Tensor:
    return tensor.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


class Convolve(torch.autograd.Function):
    """A Farkas convolution, or Algorithm 2 with a shortcut, with or without the ReLU, of batch-last maps."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None,
        coefficient: float, bound: float, relu: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The output (N, m, H, W), and the input for a second use, whose gradient the kernel adds.

        Args:
            ctx: for the backward pass.
            input: (N, C, H, W).
            weight: (m - 1, C, k, k), the free rows.
            bias: (m,), before its last entry is bounded.
            shortcut: (N, m - 1, H, W), in any memory format.
            coefficient: the aggregation's a.
            bound: the least value of b_m + Agg(b).
            relu: whether to apply it.
        """
        added, own_bias = None if shortcut is None else _as_batch_last(shortcut), bias.contiguous()
        output = _empty(input, len(weight) + 1)
        layer, items, threads = _layer(input, weight, 2 * input.shape[1])
        call(
            "farkas_convolve", _at(input), _at(weight), _at(own_bias), _at(added), coefficient, bound, int(relu),
            _at(output), layer, items, threads,
        )  # fmt: skip
        ctx.save_for_backward(input, weight, bias, shortcut, output if relu else None)
        ctx.rule = coefficient, bound
        ctx.set_materialize_grads(False)
        return output, input.view_as(input)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        input, weight, bias, _, output = ctx.saved_tensors
        gradient, extra = gradients
        if gradient is None:
            return extra, *[None] * 6
        if torch.is_grad_enabled():  # a second derivative is needed
            to_input, *others = _differentiable_gradients(ctx, gradient)
            return to_input if extra is None or to_input is None else to_input + extra, *others
        coefficient, bound = ctx.rule
        gradient, extra = _as_batch_last(gradient), None if extra is None else _as_batch_last(extra)
        own_bias, inputs, outputs = bias.contiguous(), input.shape[1], len(weight)
        to_input = _empty(input, inputs) if ctx.needs_input_grad[0] else None
        to_shortcut = _empty(input, outputs) if ctx.needs_input_grad[3] else None
        layer, items, threads = _layer(input, weight, 2 * outputs)
        like, parts = (weight.shape, weight.stride()), threads if ctx.needs_input_grad[1] else 0
        weights = [torch.empty_strided(*like) for _ in range(parts)]
        places = (ctypes.c_void_p * parts)(*map(_at, weights)) if parts else None
        sums, to_bias = weight.new_empty(threads, outputs + 1), own_bias.new_empty(outputs + 1)
        call(
            "farkas_backward", _at(input), _at(weight), _at(gradient), _at(output), coefficient, _at(extra),
            _at(to_input), places, _at(sums), _at(to_shortcut), layer, items, threads,
        )  # fmt: skip
        for other in weights[1:]:
            weights[0] += other
        call("farkas_bias_gradient", _at(sums), threads, _at(own_bias), coefficient, bound, _at(to_bias), outputs)
        return to_input, weights[0] if weights else None, to_bias, to_shortcut, None, None, None


def _differentiable_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, bias, shortcut, output = ctx.saved_tensors
    coefficient, bound = ctx.rule
    z = F.conv2d(input, weight, padding=weight.shape[2] // 2)
    z = z if shortcut is None else z + shortcut
    last = torch.maximum(bound - coefficient * bias[:-1].sum(0, keepdim=True), bias[-1:])
    z = torch.cat((z, -coefficient * z.sum(1, keepdim=True)), 1) + torch.cat((bias[:-1], last)).view(-1, 1, 1)
    inputs, z = (input, weight, bias, shortcut), z if output is None else z.relu()
    return *gradients_of(z, inputs, ctx.needs_input_grad[:4], gradient), None, None, None


def _layer(input: Tensor, weight: Tensor, channels: int) -> tuple[Any, int, int]:
    """The kernel's description of a layer with `channels` in its buffers, its bands, and their threads."""
    return _described(tuple(input.shape), tuple(weight.shape), weight.stride(), channels, torch.get_num_threads())


@functools.lru_cache(maxsize=4096)
def _described(
    shape: tuple[int, ...], weight: tuple[int, ...], strides: tuple[int, ...], channels: int, threads: int
) -> tuple[Any, int, int]:
    images, inputs, height, width = shape
    outputs, kernel = weight[0], weight[2]
    blocks = images // lanes()
    stack = min(blocks, TOGETHER // lanes())
    stacks = -(-blocks // stack)
    if images * height * width * math.prod(weight) < WORTH_A_THREAD:
        threads = 1
    rows = min(height, max(1, BUFFER // channels // stack // (width + kernel - 1)))
    rows = _even(rows, height, threads // math.gcd(stacks, threads))
    numbers = (images, inputs, outputs, height, width, kernel, *strides, rows, stack)
    items = stacks * -(-height // rows)
    return (ctypes.c_longlong * len(numbers))(*numbers), items, min(threads, items)


def _even(rows: int, height: int, threads: int) -> int:
    """About `rows` rows in a band, at most a quarter more, so that each thread has as many bands if possible."""
    bands = -(-height // rows)
    for count in (bands // threads * threads, -(-bands // threads) * threads):
        if 0 < count <= height and -(-height // count) <= 1.25 * rows:
            return -(-height // count)
    return rows


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _empty(like: Tensor, channels: int) -> Tensor:
    """An empty (N, channels, H, W), batch-last; no view, so it may be changed in place."""
    images, _, height, width = like.shape
    return like.new_empty_strided((images, channels, height, width), _batch_last_strides(like))
