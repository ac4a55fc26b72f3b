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
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

jit: Any = triton.jit  # for type checkers: a kernel's numbers are no objects of Triton

ALIGNED = 8
"""Channels that a pixel's row is a multiple of."""
MULTIPROCESSORS = 128
"""At least so many programs keep a large GPU busy."""
PROGRAMS = 4 * MULTIPROCESSORS
"""About so many programs share the pixels of a weight's gradient."""


@jit
def _convolve(
    x, w, b, s, y, pixels, height, width, inputs, outputs, added, x_row, s_row, y_row, x_end, s_end,
    w_out, w_in, w_tap, k_end, n_end, coefficient,
    K: tl.constexpr, FLIPPED: tl.constexpr, BIAS: tl.constexpr, ADDS: tl.constexpr, APPENDS: tl.constexpr,
    RELU: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr, X: tl.constexpr, S: tl.constexpr,
    WK: tl.constexpr, WN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute y = w * x (+ b) (+ s, and its negative aggregate in the channel behind): BM pixels, BN channels."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    column, line = m % width, (m // width) % height
    sums = tl.zeros((BM, BN), tl.float32)
    parts = tl.cdiv(inputs, BK)
    for step in range(0, K * K * parts):  # one loop, so that the next tap's values are on their way
        tap = step // parts
        k = (step % parts) * BK + tl.arange(0, BK)
        down, right = tap // K - K // 2, tap % K - K // 2
        inside = (m < pixels) & (line + down >= 0) & (line + down < height)
        inside = inside & (column + right >= 0) & (column + right < width)
        place = x + (m + down * width + right) * (x_row * X)
        values = tl.load(place[:, None] + k[None, :], inside[:, None] & (k < x_end * X)[None, :], 0.0)
        filters = w + ((K * K - 1 - tap) if FLIPPED else tap) * w_tap
        known = (k < k_end * WK)[:, None] & (n < n_end * WN)[None, :]
        weights = tl.load(filters + k[:, None] * w_in + n[None, :] * w_out, known, 0.0)
        if HALF:
            sums = tl.dot(values.to(tl.bfloat16), weights.to(tl.bfloat16), sums)
        else:
            sums = tl.dot(values, weights, sums, input_precision=PRECISION)
    if BIAS:
        sums += tl.load(b + n, n < outputs, 0.0).to(tl.float32)[None, :]
    if ADDS:
        place = s + m * (s_row * S)
        shortcut = tl.load(place[:, None] + n[None, :], (m < pixels)[:, None] & (n < s_end * S)[None, :], 0.0)
        sums += tl.where((n < added)[None, :], shortcut.to(tl.float32), 0.0)
        if APPENDS:  # noqa: SIM102 - decided when it is compiled
            if added // BN == tl.program_id(1):
                total = tl.zeros((BM,), tl.float32)
                for first in range(0, added, BN):
                    k = first + tl.arange(0, BN)
                    part = tl.load(place[:, None] + k[None, :], (m < pixels)[:, None] & (k < added)[None, :], 0.0)
                    total += tl.sum(part.to(tl.float32), 1)
                sums = tl.where((n == added)[None, :], sums - coefficient * total[:, None], sums)
    if RELU:
        sums = tl.where(sums <= 0, 0.0, sums)  # NaN stays
    sums = tl.where((n < outputs)[None, :], sums, 0.0)
    tl.store(y + (m * (y_row * 8))[:, None] + n[None, :], sums, (m < pixels)[:, None] & (n < y_row * 8)[None, :])


@jit
def _through_relu(
    g, y, masked, to_shortcut, pixels, height, width, outputs, added, g_n, g_c, g_h, g_w, y_row, row, s_row,
    coefficient, RELU: tl.constexpr, APPENDS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient behind the ReLU, and from there that of the shortcut, g_j - a g_m."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.arange(0, BN)
    column, line, image = m % width, (m // width) % height, m // (width * height)
    there = (m < pixels)[:, None] & (n < outputs)[None, :]
    place = g + image * g_n + line * g_h + column * g_w
    values = tl.load(place[:, None] + (n * g_c)[None, :], there, 0.0).to(tl.float32)
    if RELU:
        output = tl.load(y + (m * (y_row * 8))[:, None] + n[None, :], there, 0.0)
        values = tl.where(output <= 0, 0.0, values)
    tl.store(masked + (m * (row * 8))[:, None] + n[None, :], values, (m < pixels)[:, None] & (n < row * 8)[None, :])
    if APPENDS:
        last = tl.sum(tl.where((n == added)[None, :], values, 0.0), 1)
        values -= coefficient * last[:, None]  # pyright: ignore[reportArgumentType]
        values = tl.where((n < added)[None, :], values, 0.0)
        place = to_shortcut + (m * (s_row * 8))[:, None] + n[None, :]
        tl.store(place, values, (m < pixels)[:, None] & (n < s_row * 8)[None, :])


@jit
def _weights(
    x, g, parts, pixels, height, width, inputs, outputs, x_row, g_row, x_end, chunk, size,
    K: tl.constexpr, HALF: tl.constexpr, PRECISION: tl.constexpr, X: tl.constexpr,
    BM: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr,
):  # fmt: skip
    """The gradients of K x K weights (a line of taps in a program) and of the bias, from `chunk` pixels."""
    split, down = tl.program_id(0), tl.program_id(1) - K // 2
    blocks = tl.cdiv(inputs, BI)
    o = (tl.program_id(2) // blocks) * BO + tl.arange(0, BO)
    i = (tl.program_id(2) % blocks) * BI + tl.arange(0, BI)
    left, middle, right = tl.zeros((BO, BI), tl.float32), tl.zeros((BO, BI), tl.float32), tl.zeros((BO, BI), tl.float32)
    bias = tl.zeros((BO,), tl.float32)
    for first in range(split * chunk, tl.minimum((split + 1) * chunk, pixels), BM):
        m = first + tl.arange(0, BM)
        column, line = m % width, (m // width) % height + down
        inside = (m < pixels) & (line >= 0) & (line < height)
        kept = (i < x_end * X)[None, :]
        place = x + ((m + down * width) * (x_row * X))[:, None] + i[None, :]
        gradient = tl.load(
            g + (m * (g_row * 8))[:, None] + o[None, :], (m < pixels)[:, None] & (o < g_row * 8)[None, :], 0.0
        )
        bias += tl.sum(gradient.to(tl.float32), 0)
        gradient = tl.trans(gradient)
        values = tl.load(place, inside[:, None] & kept, 0.0)
        if HALF:
            gradient = gradient.to(tl.bfloat16)
            middle = tl.dot(gradient, values.to(tl.bfloat16), middle)
        else:
            middle = tl.dot(gradient, values, middle, input_precision=PRECISION)
        if K == 3:
            before = tl.load(place - x_row * X, (inside & (column > 0))[:, None] & kept, 0.0)
            after = tl.load(place + x_row * X, (inside & (column + 1 < width))[:, None] & kept, 0.0)
            if HALF:
                left = tl.dot(gradient, before.to(tl.bfloat16), left)
                right = tl.dot(gradient, after.to(tl.bfloat16), right)
            else:
                left = tl.dot(gradient, before, left, input_precision=PRECISION)
                right = tl.dot(gradient, after, right, input_precision=PRECISION)
    there = (o < outputs)[:, None] & (i < inputs)[None, :]
    place = parts + split * size + (o * (K * K * inputs))[:, None] + i[None, :] + (down + K // 2) * K * inputs
    tl.store(place + (K // 2) * inputs, middle, there)
    if K == 3:
        tl.store(place, left, there)
        tl.store(place + 2 * inputs, right, there)
    if (down == 0) & (tl.program_id(2) % blocks == 0):
        tl.store(parts + split * size + outputs * K * K * inputs + o, bias, o < outputs)


@jit
def _pool(
    x, y, pixels, width, end, x_row, y_row, BACKWARD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """2 x 2 averages, x to y, of maps whose pooled width is `width`; or back, a quarter of y to x."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    there = (m < pixels)[:, None] & (n < end)[None, :]
    corner = (m // width) * (4 * width) + (m % width) * 2
    row = x_row * 8
    place = x + (corner * row)[:, None] + n[None, :]
    small = y + (m * (y_row * 8))[:, None] + n[None, :]
    if BACKWARD:
        values = tl.load(small, there, 0.0).to(tl.float32) * 0.25
        tl.store(place, values, there)
        tl.store(place + row, values, there)
        tl.store(place + 2 * width * row, values, there)
        tl.store(place + 2 * width * row + row, values, there)
    else:
        values = tl.load(place, there, 0.0).to(tl.float32) + tl.load(place + row, there, 0.0).to(tl.float32)
        place += 2 * width * row
        values += tl.load(place, there, 0.0).to(tl.float32) + tl.load(place + row, there, 0.0).to(tl.float32)
        tl.store(small, values * 0.25, there)


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
    tile = convolution_tile(pixels, inputs, outputs)
    grid = triton.cdiv(pixels, tile["BM"]), triton.cdiv(outputs, tile["BN"])
    _convolve[grid](
        input, weight, input if bias is None else bias, input if added is None else added, output,
        pixels, height, width, inputs, outputs, 0 if added is None else added.shape[1],
        x_row, s_row, output.stride(3) // ALIGNED, x_end, s_end,
        out, into, weight.stride(3), k_end, n_end, coefficient or 0.0,
        K=weight.shape[2], FLIPPED=flipped, BIAS=bias is not None, ADDS=added is not None,
        APPENDS=coefficient is not None, RELU=relu, HALF=precision == "bf16",
        PRECISION="ieee" if precision == "bf16" else precision, X=unit, S=s_unit, WK=k_unit, WN=n_unit,
        **tile,
    )  # fmt: skip
    return output


def convolution_tile(pixels: int, inputs: int, outputs: int) -> dict[str, int]:
    """The pixels, outputs and inputs that a program of `_convolve` takes at once, and its warps and stages."""
    lines = 128 if pixels >= MULTIPROCESSORS * 128 else 64
    columns = _block(outputs, 64 if outputs <= 64 or outputs % 64 == 0 else 32)
    while columns > 16 and triton.cdiv(pixels, lines) * triton.cdiv(outputs, columns) < MULTIPROCESSORS:
        columns //= 2
    inner = _block(inputs, 64 if inputs % 64 == 0 else 32)
    return {"BM": lines, "BN": columns, "BK": inner, "num_warps": 4, "num_stages": 2 if lines == 128 else 4}


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
    to_shortcut = masked if coefficient is None else rows(output, added, height, width, output.dtype)
    columns, pixels = triton.next_power_of_2(_up(outputs)), count * height * width
    lines = max(1, 4096 // columns)
    _through_relu[(triton.cdiv(pixels, lines),)](
        gradient, output, masked, to_shortcut, pixels, height, width, outputs, added, *gradient.stride(),
        *(maps.stride(3) // ALIGNED for maps in (output, masked, to_shortcut)),
        coefficient or 0.0, RELU=relu, APPENDS=coefficient is not None, BM=lines, BN=columns, num_warps=4,
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
    tile = weights_tile(inputs, outputs, precision)
    blocks = triton.cdiv(outputs, tile["BO"]) * triton.cdiv(inputs, tile["BI"])
    chunk = tile["BM"] * max(1, round(pixels * kernel * blocks / PROGRAMS / tile["BM"]))
    splits, size = triton.cdiv(pixels, chunk), outputs * (kernel * kernel * inputs + 1)
    parts = torch.empty(splits, size, device=input.device)
    unit, x_row, x_end = _row(input)
    _weights[(splits, kernel, blocks)](
        input, gradient, parts, pixels, height, width, inputs, outputs,
        x_row, gradient.stride(3) // ALIGNED, x_end, chunk, size,
        K=kernel, HALF=precision == "bf16", PRECISION="ieee" if precision == "bf16" else precision, X=unit,
        **tile,
    )  # fmt: skip
    weight, bias = parts.sum(0).tensor_split([size - outputs])
    return weight.view(outputs, kernel, kernel, inputs).permute(0, 3, 1, 2), bias


def weights_tile(inputs: int, outputs: int, precision: str) -> dict[str, int]:
    """The pixels, outputs and inputs that a program of `_weights` takes at once, and its warps and stages."""
    most = 64 if outputs % 64 == 0 else 32
    lines = 128 if precision == "bf16" or max(inputs, outputs) <= 32 else 64
    return {"BM": lines, "BO": _block(outputs, most), "BI": _block(inputs, 32), "num_warps": 4, "num_stages": 2}


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
    _pool[grid](
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
