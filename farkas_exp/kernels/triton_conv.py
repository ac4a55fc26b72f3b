"""Convolutions on a GPU in one pass, with what follows them: bias, shortcut, aggregate, ReLU (Triton).

cuDNN takes 5 to 10 times as long for the thin networks of the paper as their memory traffic would, and pays twice for
channels that are no multiple of 8, as most layers of a FarkasNet have them. Here a convolution is one kernel that reads
its input once and writes its output once, and its derivatives are four.

Maps are channels_last, and a pixel's channels may be followed by zeros (a *row*): maps that are made here have rows of
a multiple of 8, so that every pixel begins at a multiple of 16 bytes. To all other code they are maps of their shape.
"""

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
from torch import Tensor

from farkas_exp.kernels import triton_kernels

ALIGNED = 8
"""Channels that a pixel's row is a multiple of."""
MULTIPROCESSORS = 128
"""At least so many programs keep a large GPU busy."""


def rows(like: Tensor, channels: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Empty maps (N, channels, height, width) with aligned rows on the device of `like`."""
    row = _up(channels)
    flat = torch.empty(len(like) * height * width * row, dtype=dtype, device=like.device)
    return flat.as_strided((len(like), channels, height, width), (height * width * row, 1, width * row, row))


def in_rows(maps: Tensor) -> Tensor:
    """The maps with one row a pixel, one after the other: these, or a channels_last copy."""
    _, channels, height, width = maps.shape
    row = maps.stride(3)
    fits = maps.stride() == (height * width * row, 1, width * row, row) and row >= channels
    return maps if fits else maps.clone(memory_format=torch.channels_last)


def is_aligned(maps: Tensor) -> bool:
    """Whether maps have aligned rows, with memory up to the end of the last one."""
    height, width = maps.shape[2:]
    row = maps.stride(3)
    in_order = maps.stride() == (height * width * row, 1, width * row, row)
    return in_order and _row(maps)[0] == ALIGNED and int(maps.storage_offset()) % ALIGNED == 0


def _up(number: int) -> int:
    return -(-number // ALIGNED) * ALIGNED


def _row(maps: Tensor) -> tuple[int, int, int]:
    """Of maps in rows: the unit of their rows (8, or 1 where they are not aligned), their row and end in this unit.

    Up to the end there is memory of the maps: channels, or zeros of a row.
    """
    channels, row = maps.shape[1], maps.stride(3)
    pixels = maps.shape[0] * maps.shape[2] * maps.shape[3]
    whole = maps.storage_offset() + pixels * row <= maps.untyped_storage().nbytes() // maps.element_size()
    if row % ALIGNED == 0 and _up(channels) <= row and whole:
        return ALIGNED, row // ALIGNED, _up(channels) // ALIGNED
    return 1, row, channels


def _has_rows(weight: Tensor) -> bool:
    """Whether a weight (m, C, k, k) has aligned rows, as `whole_network` makes them."""
    inputs, kernel, row = *weight.shape[1:3], weight.stride(3)
    return weight.stride()[:3] == (kernel * kernel * row, 1, kernel * row) and row >= inputs and row % ALIGNED == 0


def _block(number: int, most: int) -> int:
    return max(16, min(most, triton.next_power_of_2(number)))


def convolve(
    input: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, coefficient: float | None, *,
    relu: bool, precision: str, dtype: torch.dtype, flipped: bool = False,
) -> Tensor:  # fmt: skip
    """A convolution of stride 1 that keeps the size of its maps, and what follows it, in one kernel.

    Args:
        input: (N, C, H, W), in rows.
        weight: (m, C, k, k), k 1 or 3, with any strides; or (C, m, k, k), if `flipped`: then its transpose is applied.
            Its rows may be longer, as those of maps.
        bias: (m,).
        added: (N, m, H, W) in rows; or (N, m - 1, H, W), with a coefficient.
        coefficient: a, if the last channel gets -a times the sum of what is added to the others (Algorithm 2).
        relu: whether the ReLU follows.
        precision: "ieee", "tf32", "tf32x3" or "bf16" products.
        dtype: of the output.
        flipped: see `weight`.

    Returns:
        (N, m, H, W), with aligned rows.
    """
    count, inputs, height, width = input.shape
    outputs = weight.shape[1] if flipped else weight.shape[0]
    output = rows(input, outputs, height, width, dtype)
    pixels = count * height * width
    out, into = (weight.stride(1), weight.stride(0)) if flipped else (weight.stride(0), weight.stride(1))
    w_unit, w_end = (ALIGNED, weight.stride(3) // ALIGNED) if _has_rows(weight) else (1, weight.shape[1])
    k_unit, k_end = (1, inputs) if flipped else (w_unit, w_end)
    n_unit, n_end = (w_unit, w_end) if flipped else (1, outputs)
    unit, x_row, x_end = _row(input)
    s_unit, s_row, s_end = (1, 0, 0) if added is None else _row(added)
    kernel, span = weight.shape[2], x_end * unit
    tile = convolution_tile(pixels, kernel, kernel * kernel * span, outputs, precision)
    grid = triton.cdiv(pixels, tile["BM"] * tile["TILES"]), triton.cdiv(outputs, tile["BN"] + tile["MORE"])
    triton_kernels.convolve[grid](
        input, weight, input if bias is None else bias, input if added is None else added, output,
        pixels, outputs, 0 if added is None else added.shape[1], x_row, s_row, output.stride(3) // ALIGNED, s_end,
        out, into, weight.stride(3), k_end, n_end, coefficient or 0.0,
        K=kernel, SPAN=span, HEIGHT=height, WIDTH=width, FLIPPED=flipped, BIAS=bias is not None, ADDS=added is not None,
        APPENDS=coefficient is not None, RELU=relu, HALF=precision == "bf16",
        PRECISION="ieee" if precision == "bf16" else precision, X=unit, S=s_unit, WK=k_unit, WN=n_unit,
        **tile,
    )  # fmt: skip
    return output


def convolution_tile(pixels: int, kernel: int, values: int, outputs: int, precision: str) -> dict[str, Any]:
    """How many pixels, values around each, and outputs a program of `triton_kernels.convolve` takes at once.

    In bf16 these were the fastest for the layers of the paper on an H100 (`benchmarks/gpu_tiles.json`).
    """
    if precision != "bf16":
        inner = 32
    elif kernel == 1:
        inner = 64
    else:
        inner = 32 if values <= 9 * 32 else 128 if values <= 9 * 72 else 64
    tile = {"BM": 64, "BK": _block(values, inner), "TILES": 1, "num_warps": 4, "num_stages": 1}
    if values <= 256 and outputs <= 32 and pixels >= 8 * 64 * MULTIPROCESSORS:
        return tile | {"BN": _block(outputs, 32), "MORE": 0, "TILES": 4}
    if inner == 128 and values <= 9 * 40 and outputs <= 64:
        return tile | {"BN": _block(outputs, 64), "MORE": 0, "TILES": 2}
    lines = triton.cdiv(pixels, 64)
    for most in (96, 64, 48, 32, 16):
        number, columns, more = _columns(outputs, most)
        if lines * number >= MULTIPROCESSORS:
            break
    return tile | {"BN": columns, "MORE": more}


def _columns(outputs: int, most: int) -> tuple[int, int, int]:
    """Blocks of at most so many outputs, few of them empty: their number, and a power of 2 and some more of each."""
    least = -(-outputs // most)
    widths = {number: -(-outputs // (16 * number)) * 16 for number in range(least, least + 3)}
    number = min(widths, key=lambda number: number * (widths[number] + 24))  # each block reads the input again
    power = 2 ** (widths[number].bit_length() - 1)
    more = widths[number] - power
    return number, power, triton.next_power_of_2(more) if more else 0


def through_relu(
    gradient: Tensor, output: Tensor, added: int, coefficient: float | None, relu: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradient (N, m, H, W) before the ReLU, and that of an appended shortcut, both with aligned rows.

    Args:
        gradient: of the output, with any strides.
        output: (N, m, H, W), with aligned rows.
        added: the channels of the shortcut.
        coefficient: a; None: there is no shortcut, or its gradient is the first result.
        relu: whether the ReLU was applied.
    """
    count, outputs, height, width = output.shape
    masked = rows(output, outputs, height, width, output.dtype)
    assert masked.stride() == output.stride()
    to_shortcut = masked if coefficient is None else rows(output, added, height, width, output.dtype)
    columns, pixels = _block(_up(outputs), 64), count * height * width
    lines = 4096 // columns
    in_order, (g_n, g_c, g_h, g_w) = is_aligned(gradient), gradient.stride()
    triton_kernels.through_relu[(triton.cdiv(pixels, lines), triton.cdiv(outputs, columns))](
        gradient, output, masked, to_shortcut, pixels, height, width, outputs, added,
        g_n, g_c, g_h, g_w // ALIGNED if in_order else g_w,
        masked.stride(3) // ALIGNED, to_shortcut.stride(3) // ALIGNED, coefficient or 0.0,
        ROWS=in_order, RELU=relu, APPENDS=coefficient is not None, BM=lines, BN=columns, num_warps=4,
    )  # fmt: skip
    return masked, None if coefficient is None else to_shortcut


def weight_gradients(input: Tensor, gradient: Tensor, kernel: int, precision: str) -> tuple[Tensor, Tensor]:
    """The gradients of the weight (m, C, k, k), channels_last, and of the bias (m,), in float32.

    Args:
        input: (N, C, H, W), in rows.
        gradient: (N, m, H, W), with aligned rows.
        kernel: k, 1 or 3.
        precision: as in `convolve`.
    """
    count, inputs, height, width = input.shape
    outputs, pixels = gradient.shape[1], count * height * width
    unit, x_row, x_end = _row(input)
    span = x_end * unit
    values, rows, columns = kernel * kernel * span, kernel * kernel * span + 1, _up(outputs)
    tile = weights_tile(kernel, values, outputs, precision)
    blocks = triton.cdiv(values, tile["BK"]), triton.cdiv(outputs, tile["BN"] + tile["MORE"])
    chunk = tile["BM"] * max(1, round(pixels * blocks[0] * blocks[1] / tile.pop("PROGRAMS") / tile["BM"]))
    splits = triton.cdiv(pixels, chunk)
    parts = torch.empty(splits, rows, columns, device=input.device)
    triton_kernels.weights[(splits, *blocks)](
        input, gradient, parts, pixels, x_row, gradient.stride(3) // ALIGNED, chunk,
        K=kernel, SPAN=span, HEIGHT=height, WIDTH=width, HALF=precision == "bf16",
        PRECISION="ieee" if precision == "bf16" else precision, X=unit, COLUMNS=columns, ROWS=rows,
        **tile,
    )  # fmt: skip
    weight = torch.empty(outputs, kernel, kernel, inputs, device=input.device)
    bias, block = torch.empty(outputs, device=input.device), 32 if rows * columns < 32 * 4 * MULTIPROCESSORS else 128
    triton_kernels.sum_parts[(triton.cdiv(rows * columns, block),)](
        parts, weight, bias, splits, inputs, outputs, K=kernel, SPAN=span, COLUMNS=columns, ROWS=rows,
        BS=4096 // block, BN=block, num_warps=4,
    )  # fmt: skip
    return weight.permute(0, 3, 1, 2), bias


def weights_tile(kernel: int, values: int, outputs: int, precision: str) -> dict[str, Any]:
    """How many pixels, values around each, and outputs a program of `triton_kernels.weights` takes at once.

    And about how many programs there are: as many as keep a GPU busy, but the parts that they write are read again.
    """
    large = values * outputs > 2**13
    _, columns, more = _columns(outputs, 48 if large else 96)
    wide = kernel == 3 and precision == "bf16"
    return {
        "BM": 64, "BN": columns, "MORE": more, "BK": _block(values, 128 if wide else 64), "num_warps": 4,
        "num_stages": 1, "PROGRAMS": (2 if wide or large else 4) * MULTIPROCESSORS,
    }  # fmt: skip


class Pool(torch.autograd.Function):
    """The averages of 2 x 2 pixels, of maps of even height and width in aligned rows."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """(N, C, 2 H, 2 W) to (N, C, H, W)."""
        _, channels, height, width = maps.shape
        pooled = rows(maps, channels, height // 2, width // 2, maps.dtype)
        _pool_between(maps, pooled, backward=False)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Use an ordinary operation where the result has to be differentiated again."""
        (gradient,) = gradients
        if torch.is_grad_enabled():
            return gradient.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
        _, channels, height, width = gradient.shape
        maps = rows(gradient, channels, 2 * height, 2 * width, gradient.dtype)
        _pool_between(maps, _in_aligned_rows(gradient), backward=True)
        return maps


def _pool_between(maps: Tensor, pooled: Tensor, backward: bool) -> None:
    count, channels, height, width = pooled.shape
    pixels, columns = count * height * width, _block(_up(channels), 64)
    grid = triton.cdiv(pixels, 64), triton.cdiv(_up(channels), columns)
    triton_kernels.pool[grid](
        maps, pooled, pixels, width, _up(channels), maps.stride(3) // ALIGNED, pooled.stride(3) // ALIGNED,
        BACKWARD=backward, BM=64, BN=columns, num_warps=4,
    )  # fmt: skip


def _in_aligned_rows(maps: Tensor) -> Tensor:
    if is_aligned(maps):
        return maps
    _, channels, height, width = maps.shape
    copy = rows(maps, channels, height, width, maps.dtype)
    copy.as_strided((copy.untyped_storage().nbytes() // copy.element_size(),), (1,)).zero_()
    return copy.copy_(maps)
