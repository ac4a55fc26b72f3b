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
def _inside(m, pixels, K: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """A bit for each tap around pixels: whether it is in the image."""
    bits = tl.where(m < pixels, 1, 0)
    if K == 3:
        column, line = m % WIDTH, (m // WIDTH) % HEIGHT
        across = 2 + tl.where(column > 0, 1, 0) + tl.where(column + 1 < WIDTH, 4, 0)
        bits *= across * (8 + tl.where(line > 0, 1, 0) + tl.where(line + 1 < HEIGHT, 64, 0))
    return bits


@jit
def _around(x, m, k, inside, row, K: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr):
    """Values k of those that a convolution reads around pixels m: tap after tap, SPAN channels of each."""
    tap = k // SPAN
    place = ((tap // K - K // 2) * WIDTH + tap % K - K // 2) * row + k % SPAN
    there = (inside[:, None] & (1 << tap)[None, :]) != 0
    return tl.load(x + (m * row)[:, None] + place[None, :], there, 0.0)


@jit
def _filters(
    w, n, k, w_out, w_in, w_tap, k_end, n_end, K: tl.constexpr, SPAN: tl.constexpr, FLIPPED: tl.constexpr,
):  # fmt: skip
    """The factors of the values k for the outputs n."""
    tap, channel = k // SPAN, k % SPAN
    known = (tap < K * K) & (channel < k_end)
    place = ((K * K - 1 - tap) if FLIPPED else tap) * w_tap + channel * w_in
    return tl.load(w + place[:, None] + (n * w_out)[None, :], known[:, None] & (n < n_end)[None, :], 0.0)


@jit
def _plus_product(sums, values, factors, HALF: tl.constexpr, PRECISION: tl.constexpr):
    if HALF:
        sums = tl.dot(values.to(tl.bfloat16), factors.to(tl.bfloat16), sums)
    else:
        sums = tl.dot(values, factors, sums, input_precision=PRECISION)
    return sums


@jit
def _finish(
    sums, m, n, b, s, y, pixels, outputs, added, s_row, y_row, s_end, coefficient, first, last, BIAS: tl.constexpr,
    ADDS: tl.constexpr, APPENDS: tl.constexpr, RELU: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Add bias and shortcut to the outputs n, which are `first` to `last`, apply the ReLU and store them."""
    if BIAS:
        sums += tl.load(b + n, n < outputs, 0.0).to(tl.float32)[None, :]
    if ADDS:
        place = (s + m * s_row)[:, None]
        shortcut = tl.load(place + n[None, :], (m < pixels)[:, None] & (n < s_end)[None, :], 0.0)
        sums += tl.where((n < added)[None, :], shortcut.to(tl.float32), 0.0)
        if APPENDS:  # noqa: SIM102 - decided when it is compiled
            if (first <= added) & (added < last):
                total = tl.zeros((BM,), tl.float32)
                for start in range(0, added, 32):
                    k = start + tl.arange(0, 32)
                    part = tl.load(place + k[None, :], (m < pixels)[:, None] & (k < s_end)[None, :], 0.0)
                    total += tl.sum(tl.where((k < added)[None, :], part.to(tl.float32), 0.0), 1)
                sums = tl.where((n == added)[None, :], sums - coefficient * total[:, None], sums)
    if RELU:
        sums = tl.where(sums <= 0, 0.0, sums)  # NaN stays
    sums = tl.where((n < outputs)[None, :], sums, 0.0)
    tl.store(y + (m * y_row)[:, None] + n[None, :], sums, (m < pixels)[:, None] & (n < y_row)[None, :])


@jit
def _convolve(
    x, w, b, s, y, pixels, outputs, added, x_row, s_row, y_row, s_end, w_out, w_in, w_tap, k_end, n_end, coefficient,
    K: tl.constexpr, SPAN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FLIPPED: tl.constexpr,
    BIAS: tl.constexpr, ADDS: tl.constexpr, APPENDS: tl.constexpr, RELU: tl.constexpr, HALF: tl.constexpr,
    PRECISION: tl.constexpr, X: tl.constexpr, S: tl.constexpr, WK: tl.constexpr, WN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MORE: tl.constexpr, BK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Compute y = w * x (+ b) (+ s, and its negative aggregate in the channel behind).

    A program computes BM pixels of BN + MORE channels. The values around a pixel are one line of factors, whose parts
    of BK are read one ahead (AHEAD), through the cache that the next tap finds them in, or pipelined by Triton past it.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    first = tl.program_id(1) * (BN + MORE)
    n = first + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), tl.float32)
    if MORE:
        more = first + BN + tl.arange(0, MORE)
        others = tl.zeros((BM, MORE), tl.float32)
    inside = _inside(m, pixels, K, HEIGHT, WIDTH)
    if AHEAD:
        k = tl.arange(0, BK)
        next_values = _around(x, m, k, inside, x_row * X, K, SPAN, WIDTH)
        next_factors = _filters(w, n, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED)
        if MORE:
            next_others = _filters(w, more, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED)
        for start in tl.static_range(0, K * K * SPAN, BK):
            values, factors = next_values, next_factors
            if MORE:
                other_factors = next_others
            if start + BK < K * K * SPAN:
                k = start + BK + tl.arange(0, BK)
                next_values = _around(x, m, k, inside, x_row * X, K, SPAN, WIDTH)
                next_factors = _filters(w, n, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED)
                if MORE:
                    next_others = _filters(w, more, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED)
            sums = _plus_product(sums, values, factors, HALF, PRECISION)
            if MORE:
                others = _plus_product(others, values, other_factors, HALF, PRECISION)
    else:
        for start in range(0, K * K * SPAN, BK):
            k = start + tl.arange(0, BK)
            values = _around(x, m, k, inside, x_row * X, K, SPAN, WIDTH)
            factors = _filters(w, n, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED)
            sums = _plus_product(sums, values, factors, HALF, PRECISION)
            if MORE:
                factors = _filters(w, more, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED)
                others = _plus_product(others, values, factors, HALF, PRECISION)
    _finish(
        sums, m, n, b, s, y, pixels, outputs, added, s_row * S, y_row * 8, s_end * S, coefficient, first, first + BN,
        BIAS, ADDS, APPENDS, RELU, BM,
    )  # fmt: skip
    if MORE:
        _finish(
            others, m, more, b, s, y, pixels, outputs, added, s_row * S, y_row * 8, s_end * S, coefficient,
            first + BN, first + BN + MORE, BIAS, ADDS, APPENDS, RELU, BM,
        )  # fmt: skip


@jit
def _through_relu(
    g, y, masked, to_shortcut, pixels, height, width, outputs, added, g_n, g_c, g_h, g_w, y_row, row, s_row,
    coefficient, RELU: tl.constexpr, APPENDS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient behind the ReLU, and from there that of the shortcut, g_j - a g_m."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    column, line, image = m % width, (m // width) % height, m // (width * height)
    there = (m < pixels)[:, None] & (n < outputs)[None, :]
    place = g + image * g_n + line * g_h + column * g_w
    values = tl.load(place[:, None] + (n * g_c)[None, :], there, 0.0).to(tl.float32)
    if RELU:
        output = tl.load(y + (m * (y_row * 8))[:, None] + n[None, :], there, 0.0)
        values = tl.where(output <= 0, 0.0, values)
    tl.store(masked + (m * (row * 8))[:, None] + n[None, :], values, (m < pixels)[:, None] & (n < row * 8)[None, :])
    if APPENDS:
        last = tl.load(place + added * g_c, m < pixels, 0.0).to(tl.float32)
        if RELU:
            last = tl.where(tl.load(y + m * (y_row * 8) + added, m < pixels, 0.0) <= 0, 0.0, last)
        values = tl.where((n < added)[None, :], values - coefficient * last[:, None], 0.0)
        place = to_shortcut + (m * (s_row * 8))[:, None] + n[None, :]
        tl.store(place, values, (m < pixels)[:, None] & (n < s_row * 8)[None, :])


@jit
def _gradients(g, m, n, last, row, end):
    return tl.load(g + (m * row)[:, None] + n[None, :], (m < last)[:, None] & (n < end)[None, :], 0.0)


@jit
def _weights(
    x, g, parts, pixels, inputs, outputs, x_row, g_row, chunk, size,
    K: tl.constexpr, SPAN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
    PRECISION: tl.constexpr, X: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MORE: tl.constexpr, BK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """The gradients of BN + MORE outputs' weights for BK of the values around a pixel, and of the bias.

    A program sums over `chunk` pixels, BM at once; those of the next BM are read one ahead (AHEAD).
    """
    split = tl.program_id(0)
    last = tl.minimum((split + 1) * chunk, pixels)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    start = tl.program_id(2) * (BN + MORE)
    n = start + tl.arange(0, BN)
    sums, bias = tl.zeros((BK, BN), tl.float32), tl.zeros((BM, BN), tl.float32)
    if MORE:
        more = start + BN + tl.arange(0, MORE)
        others, other_bias = tl.zeros((BK, MORE), tl.float32), tl.zeros((BM, MORE), tl.float32)
    if AHEAD:
        m = split * chunk + tl.arange(0, BM)
        next_values = _around(x, m, k, _inside(m, last, K, HEIGHT, WIDTH), x_row * X, K, SPAN, WIDTH)
        next_gradients = _gradients(g, m, n, last, g_row * 8, g_row * 8)
        if MORE:
            next_others = _gradients(g, m, more, last, g_row * 8, g_row * 8)
    for first in range(split * chunk, last, BM):
        if AHEAD:
            values, gradients = next_values, next_gradients
            if MORE:
                other_gradients = next_others
            m = first + BM + tl.arange(0, BM)
            next_values = _around(x, m, k, _inside(m, last, K, HEIGHT, WIDTH), x_row * X, K, SPAN, WIDTH)
            next_gradients = _gradients(g, m, n, last, g_row * 8, g_row * 8)
            if MORE:
                next_others = _gradients(g, m, more, last, g_row * 8, g_row * 8)
        else:
            m = first + tl.arange(0, BM)
            values = _around(x, m, k, _inside(m, last, K, HEIGHT, WIDTH), x_row * X, K, SPAN, WIDTH)
            gradients = _gradients(g, m, n, last, g_row * 8, g_row * 8)
            if MORE:
                other_gradients = _gradients(g, m, more, last, g_row * 8, g_row * 8)
        values = tl.trans(values)
        sums = _plus_product(sums, values, gradients, HALF, PRECISION)
        bias += gradients.to(tl.float32)
        if MORE:
            others = _plus_product(others, values, other_gradients, HALF, PRECISION)
            other_bias += other_gradients.to(tl.float32)
    own = n < tl.where(tl.program_id(1) == 0, outputs, 0)
    channel, known = k % SPAN, (k < K * K * SPAN) & (k % SPAN < inputs)
    place = parts + split * size + (k // SPAN) * inputs + channel
    of_bias = parts + split * size + outputs * K * K * inputs
    tl.store(place[:, None] + (n * (K * K * inputs))[None, :], sums, known[:, None] & (n < outputs)[None, :])
    tl.store(of_bias + n, tl.sum(bias, 0), own)
    if MORE:
        own = more < tl.where(tl.program_id(1) == 0, outputs, 0)
        tl.store(place[:, None] + (more * (K * K * inputs))[None, :], others, known[:, None] & (more < outputs)[None, :])
        tl.store(of_bias + more, tl.sum(other_bias, 0), own)


@jit
def _sum(parts, total, splits, size, BS: tl.constexpr, BN: tl.constexpr):
    """The sums over splits, always in the same order."""
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    sums = tl.zeros((BS, BN), tl.float32)
    for first in range(0, splits, BS):
        row = first + tl.arange(0, BS)
        sums += tl.load(parts + (row * size)[:, None] + n[None, :], (row < splits)[:, None] & (n < size)[None, :], 0.0)
    tl.store(total + n, tl.sum(sums, 0), n < size)


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
    kernel, span = weight.shape[2], x_end * unit
    tile = convolution_tile(pixels, kernel * kernel * span, outputs, precision)
    grid = triton.cdiv(pixels, tile["BM"]), triton.cdiv(outputs, tile["BN"] + tile["MORE"])
    _convolve[grid](
        input, weight, input if bias is None else bias, input if added is None else added, output,
        pixels, outputs, 0 if added is None else added.shape[1], x_row, s_row, output.stride(3) // ALIGNED, s_end,
        out, into, weight.stride(3), k_end, n_end, coefficient or 0.0,
        K=kernel, SPAN=span, HEIGHT=height, WIDTH=width, FLIPPED=flipped, BIAS=bias is not None, ADDS=added is not None,
        APPENDS=coefficient is not None, RELU=relu, HALF=precision == "bf16",
        PRECISION="ieee" if precision == "bf16" else precision, X=unit, S=s_unit, WK=k_unit, WN=n_unit,
        **tile,
    )  # fmt: skip
    return output


def convolution_tile(pixels: int, values: int, outputs: int, precision: str) -> dict[str, Any]:
    """How much a program of `_convolve` takes at once of the pixels, of the values around each, and of the outputs."""
    lines = 128 if pixels >= MULTIPROCESSORS * 128 else 64
    columns, more = _columns(outputs)
    inner = _block(values, 64 if precision == "bf16" else 32)
    return {"BM": lines, "BN": columns, "MORE": more, "BK": inner, "AHEAD": True, "num_warps": 4, "num_stages": 1}


def _columns(outputs: int) -> tuple[int, int]:
    """Outputs that a program computes: a power of 2, and some more, so that few of its columns are empty."""
    number = max(1, outputs // 64)
    columns = max(16, _up(-(-outputs // number)))
    power = 2 ** (columns.bit_length() - 1)
    more = triton.next_power_of_2(columns - power) if columns > power else 0
    return (2 * power, 0) if more == power else (power, more)


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
    columns, pixels = _block(_up(outputs), 64), count * height * width
    lines = 4096 // columns
    _through_relu[(triton.cdiv(pixels, lines), triton.cdiv(outputs, columns))](
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
    unit, x_row, x_end = _row(input)
    span = x_end * unit
    tile = weights_tile(kernel * kernel * span, outputs, precision)
    blocks = triton.cdiv(kernel * kernel * span, tile["BK"]), triton.cdiv(outputs, tile["BN"] + tile["MORE"])
    chunk = tile["BM"] * max(1, round(pixels * blocks[0] * blocks[1] / PROGRAMS / tile["BM"]))
    splits, size = triton.cdiv(pixels, chunk), outputs * (kernel * kernel * inputs + 1)
    parts = torch.empty(splits, size, device=input.device)
    _weights[(splits, *blocks)](
        input, gradient, parts, pixels, inputs, outputs, x_row, gradient.stride(3) // ALIGNED, chunk, size,
        K=kernel, SPAN=span, HEIGHT=height, WIDTH=width, HALF=precision == "bf16",
        PRECISION="ieee" if precision == "bf16" else precision, X=unit,
        **tile,
    )  # fmt: skip
    weight, bias = _summed(parts).tensor_split([size - outputs])
    return weight.view(outputs, kernel, kernel, inputs).permute(0, 3, 1, 2), bias


def weights_tile(values: int, outputs: int, precision: str) -> dict[str, Any]:
    """How much a program of `_weights` takes at once of the pixels, of the values around each, and of the outputs."""
    columns, more = _columns(outputs)
    inner = _block(values, 128 if precision == "bf16" else 64)
    return {"BM": 64, "BN": columns, "MORE": more, "BK": inner, "AHEAD": True, "num_warps": 4, "num_stages": 1}


def _summed(parts: Tensor) -> Tensor:
    """The sum over the first dimension, always in the same order."""
    splits, size = parts.shape
    total = torch.empty(size, device=parts.device)
    columns = 32 if size < 32 * PROGRAMS else 128
    _sum[(triton.cdiv(size, columns),)](parts, total, splits, size, BS=4096 // columns, BN=columns, num_warps=4)
    return total


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
