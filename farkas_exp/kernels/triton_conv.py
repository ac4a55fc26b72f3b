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


@jit
def _inside(start, r, end, K: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BM: tl.constexpr):
    """For pixels start + r up to `end`, `start` a multiple of BM: a bit for each tap, whether it is in the image."""
    bits = tl.full((BM,), 1, tl.int32)
    if K == 3:
        column = (r if BM % WIDTH == 0 else start + r) % WIDTH
        line = (start // WIDTH + r // WIDTH) if BM % WIDTH == 0 else (start + r) // WIDTH
        line = (r // WIDTH if BM % (HEIGHT * WIDTH) == 0 else line) % HEIGHT  # where it is the same for each start
        across = 2 + tl.where(column > 0, 1, 0) + tl.where(column + 1 < WIDTH, 4, 0)
        bits = across * 8 + tl.where(line > 0, across, 0) + tl.where(line + 1 < HEIGHT, across * 64, 0)
    return tl.where(start + r < end, bits, 0)


@jit
def _around(x, r, k, inside, row, K: tl.constexpr, SPAN: tl.constexpr, WIDTH: tl.constexpr):
    """Values k of those that a convolution reads around pixels r from x: tap after tap, SPAN channels of each."""
    tap = k // SPAN
    place = ((tap // K - K // 2) * WIDTH + tap % K - K // 2) * row + k % SPAN
    there = (inside[:, None] & (1 << tap)[None, :]) != 0
    return tl.load(x + ((r * row)[:, None] + place[None, :]), there, 0.0)


@jit
def _filters(
    w, n, k, w_out, w_in, w_tap, k_end, n_end, K: tl.constexpr, SPAN: tl.constexpr, FLIPPED: tl.constexpr,
    HALF: tl.constexpr,
):  # fmt: skip
    """The factors of the values k for the outputs n."""
    tap, channel = k // SPAN, k % SPAN
    known = (tap < K * K) & (channel < k_end)
    place = ((K * K - 1 - tap) if FLIPPED else tap) * w_tap + channel * w_in
    factors = tl.load(w + place[:, None] + (n * w_out)[None, :], known[:, None] & (n < n_end)[None, :], 0.0)
    if HALF:
        factors = factors.to(tl.bfloat16)
    return factors


@jit
def _plus_product(sums, values, factors, HALF: tl.constexpr, PRECISION: tl.constexpr):
    if HALF:
        sums = tl.dot(values.to(tl.bfloat16), factors, sums)
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
    BM: tl.constexpr, BN: tl.constexpr, MORE: tl.constexpr, BK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Compute y = w * x (+ b) (+ s, and its negative aggregate in the channel behind).

    A program computes TILES times BM pixels of BN + MORE channels. The values around a pixel are one line of factors,
    of which it takes BK at once and reads the next ones meanwhile. For several tiles it holds all filters.
    """
    first = tl.program_id(1) * (BN + MORE)
    n, k = first + tl.arange(0, BN), tl.arange(0, BK)
    more = first + BN + tl.arange(0, MORE or 1)  # read only if there are more
    start, r, row = tl.program_id(0) * (TILES * BM), tl.arange(0, BM), x_row * X
    inside = _inside(start, r, pixels, K, HEIGHT, WIDTH, BM)
    values = _around(x + start * row, r, k, inside, row, K, SPAN, WIDTH)
    if TILES == 1:
        sums, others = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, MORE or 1), tl.float32)
        factors = _filters(w, n, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED, HALF)
        if MORE:
            other_factors = _filters(w, more, k, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED, HALF)
        for ahead in range(BK, K * K * SPAN + BK, BK):
            these, filters = values, factors
            values = _around(x + start * row, r, k + ahead, inside, row, K, SPAN, WIDTH)
            factors = _filters(w, n, k + ahead, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED, HALF)
            sums = _plus_product(sums, these, filters, HALF, PRECISION)
            if MORE:
                filters = other_factors
                other_factors = _filters(
                    w, more, k + ahead, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED, HALF
                )
                others = _plus_product(others, these, filters, HALF, PRECISION)
        _finish(
            sums, start + r, n, b, s, y, pixels, outputs, added, s_row * S, y_row * 8, s_end * S, coefficient,
            first, first + BN, BIAS, ADDS, APPENDS, RELU, BM,
        )  # fmt: skip
        if MORE:
            _finish(
                others, start + r, more, b, s, y, pixels, outputs, added, s_row * S, y_row * 8, s_end * S, coefficient,
                first + BN, first + BN + MORE, BIAS, ADDS, APPENDS, RELU, BM,
            )  # fmt: skip
    else:
        factors = ()
        for part in tl.static_range(0, K * K * SPAN, BK):
            factors += (_filters(w, n, k + part, w_out, w_in, w_tap, k_end * WK, n_end * WN, K, SPAN, FLIPPED, HALF),)
        for _ in range(TILES):
            sums = tl.zeros((BM, BN), tl.float32)
            for part in tl.static_range(0, K * K * SPAN, BK):
                these = values
                if part + BK < K * K * SPAN:
                    values = _around(x + start * row, r, k + (part + BK), inside, row, K, SPAN, WIDTH)
                else:
                    inside = _inside(start + BM, r, pixels, K, HEIGHT, WIDTH, BM)
                    values = _around(x + (start + BM) * row, r, k, inside, row, K, SPAN, WIDTH)
                sums = _plus_product(sums, these, factors[part // BK], HALF, PRECISION)
            _finish(
                sums, start + r, n, b, s, y, pixels, outputs, added, s_row * S, y_row * 8, s_end * S, coefficient,
                first, first + BN, BIAS, ADDS, APPENDS, RELU, BM,
            )  # fmt: skip
            start += BM


@jit
def _through_relu(
    g, y, masked, to_shortcut, pixels, height, width, outputs, added, g_n, g_c, g_h, g_w, row, s_row, coefficient,
    ROWS: tl.constexpr, RELU: tl.constexpr, APPENDS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The gradient behind the ReLU, and from there that of the shortcut, g_j - a g_m; ROWS: it has aligned rows."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    known, there = (m < pixels)[:, None], (m < pixels)[:, None] & (n < row * 8)[None, :]
    if ROWS:
        place = g + m * (g_w * 8)
        values = tl.load(place[:, None] + n[None, :], there, 0.0)
    else:
        place = g + (m // (width * height)) * g_n + (m // width) % height * g_h + (m % width) * g_w
        values = tl.load(place[:, None] + (n * g_c)[None, :], known & (n < outputs)[None, :], 0.0)
    values = tl.where((n < outputs)[None, :], values.to(tl.float32), 0.0)
    if RELU:
        values = tl.where(tl.load(y + (m * (row * 8))[:, None] + n[None, :], there, 0.0) <= 0, 0.0, values)
    tl.store(masked + (m * (row * 8))[:, None] + n[None, :], values, there)
    if APPENDS:
        last = tl.load(place + added * g_c, m < pixels, 0.0).to(tl.float32)
        if RELU:
            last = tl.where(tl.load(y + m * (row * 8) + added, m < pixels, 0.0) <= 0, 0.0, last)
        values = tl.where((n < added)[None, :], values - coefficient * last[:, None], 0.0)
        tl.store(to_shortcut + (m * (s_row * 8))[:, None] + n[None, :], values, known & (n < s_row * 8)[None, :])


@jit
def _weights(
    x, g, parts, pixels, x_row, g_row, chunk,
    K: tl.constexpr, SPAN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
    PRECISION: tl.constexpr, X: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MORE: tl.constexpr, BK: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """The gradients of BN + MORE outputs' weights for BK of the values around a pixel, and of the bias.

    A program sums over `chunk` pixels, BM at once; those of the next BM are read one ahead (AHEAD). A part of the
    result has ROWS, one for each value around a pixel and then the bias, and a column for each output.
    """
    split, row, r = tl.program_id(0), x_row * X, tl.arange(0, BM)
    end = tl.minimum((split + 1) * chunk, pixels)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    first = tl.program_id(2) * (BN + MORE)
    n, more = first + tl.arange(0, BN), first + BN + tl.arange(0, MORE or 1)
    sums, others = tl.zeros((BK, BN), tl.float32), tl.zeros((BK, MORE or 1), tl.float32)
    bias, other_bias = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, MORE or 1), tl.float32)
    if AHEAD:
        inside = _inside(split * chunk, r, end, K, HEIGHT, WIDTH, BM)
        values = _around(x + split * chunk * row, r, k, inside, row, K, SPAN, WIDTH)
        gradients = _gradients(g, split * chunk, r, n, end, g_row * 8)
        if MORE:
            other_gradients = _gradients(g, split * chunk, r, more, end, g_row * 8)
    for start in range(split * chunk, end, BM):
        if AHEAD:
            these, factors = values, gradients
            if MORE:
                other_factors = other_gradients
            ahead = start + BM
            inside = _inside(ahead, r, end, K, HEIGHT, WIDTH, BM)
            values = _around(x + ahead * row, r, k, inside, row, K, SPAN, WIDTH)
            gradients = _gradients(g, ahead, r, n, end, g_row * 8)
            if MORE:
                other_gradients = _gradients(g, ahead, r, more, end, g_row * 8)
        else:
            inside = _inside(start, r, end, K, HEIGHT, WIDTH, BM)
            these = _around(x + start * row, r, k, inside, row, K, SPAN, WIDTH)
            factors = _gradients(g, start, r, n, end, g_row * 8)
            if MORE:
                other_factors = _gradients(g, start, r, more, end, g_row * 8)
        these = tl.trans(these)
        sums = _plus_product(sums, these, factors.to(tl.bfloat16) if HALF else factors, HALF, PRECISION)
        if MORE:
            others = _plus_product(
                others, these, other_factors.to(tl.bfloat16) if HALF else other_factors, HALF, PRECISION
            )
        if tl.program_id(1) == 0:
            bias += factors.to(tl.float32)
            if MORE:
                other_bias += other_factors.to(tl.float32)
    parts += split * (ROWS * COLUMNS)
    known = (k < K * K * SPAN)[:, None]
    tl.store(parts + (k * COLUMNS)[:, None] + n[None, :], sums, known & (n < COLUMNS)[None, :])
    if MORE:
        tl.store(parts + (k * COLUMNS)[:, None] + more[None, :], others, known & (more < COLUMNS)[None, :])
    if tl.program_id(1) == 0:
        parts += (ROWS - 1) * COLUMNS
        tl.store(parts + n, tl.sum(bias, 0), n < COLUMNS)
        if MORE:
            tl.store(parts + more, tl.sum(other_bias, 0), more < COLUMNS)


@jit
def _gradients(g, start, r, n, end, row):
    return tl.load(
        g + start * row + ((r * row)[:, None] + n[None, :]), (start + r < end)[:, None] & (n < row)[None, :], 0.0
    )


@jit
def _sum(
    parts, weight, bias, splits, inputs, outputs, K: tl.constexpr, SPAN: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The sums of the parts, always in the same order, as dense weights (m, k, k, C) and biases."""
    place, split = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BS)
    sums = tl.zeros((BS, BN), tl.float32)
    for first in range(0, splits, BS):
        there = (first + split < splits)[:, None] & (place < ROWS * COLUMNS)[None, :]
        sums += tl.load(
            parts + first * (ROWS * COLUMNS) + (split * (ROWS * COLUMNS))[:, None] + place[None, :], there, 0.0
        )
    total = tl.sum(sums, 0)
    k, n = place // COLUMNS, place % COLUMNS
    tap, channel = k // SPAN, k % SPAN
    tl.store(weight + (n * (K * K) + tap) * inputs + channel, total, (tap < K * K) & (channel < inputs) & (n < outputs))
    tl.store(bias + n, total, (k == ROWS - 1) & (n < outputs))


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
    grid = triton.cdiv(pixels, tile["BM"] * tile["TILES"]), triton.cdiv(outputs, tile["BN"] + tile["MORE"])
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
    half = precision == "bf16"
    tile = {"BM": 64, "BK": _block(values, 64 if half else 32), "TILES": 1, "num_warps": 4, "num_stages": 1}
    if values <= 256 and outputs <= 32 and pixels >= 4 * 64 * 2 * MULTIPROCESSORS:
        return tile | {"BN": _block(outputs, 32), "MORE": 0, "TILES": 4}
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
    _through_relu[(triton.cdiv(pixels, lines), triton.cdiv(outputs, columns))](
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
    tile = weights_tile(values, outputs, precision)
    blocks = triton.cdiv(values, tile["BK"]), triton.cdiv(outputs, tile["BN"] + tile["MORE"])
    chunk = tile["BM"] * max(1, round(pixels * blocks[0] * blocks[1] / tile.pop("PROGRAMS") / tile["BM"]))
    splits = triton.cdiv(pixels, chunk)
    parts = torch.empty(splits, rows, columns, device=input.device)
    _weights[(splits, *blocks)](
        input, gradient, parts, pixels, x_row, gradient.stride(3) // ALIGNED, chunk,
        K=kernel, SPAN=span, HEIGHT=height, WIDTH=width, HALF=precision == "bf16",
        PRECISION="ieee" if precision == "bf16" else precision, X=unit, COLUMNS=columns, ROWS=rows,
        **tile,
    )  # fmt: skip
    weight = torch.empty(outputs, kernel, kernel, inputs, device=input.device)
    bias, block = torch.empty(outputs, device=input.device), 32 if rows * columns < 32 * 4 * MULTIPROCESSORS else 128
    _sum[(triton.cdiv(rows * columns, block),)](
        parts, weight, bias, splits, inputs, outputs, K=kernel, SPAN=span, COLUMNS=columns, ROWS=rows,
        BS=4096 // block, BN=block, num_warps=4,
    )  # fmt: skip
    return weight.permute(0, 3, 1, 2), bias


def weights_tile(values: int, outputs: int, precision: str) -> dict[str, Any]:
    """How much a program of `_weights` takes at once of the pixels, of the values around each, and of the outputs.

    And about how many programs there are: as many as keep a GPU busy, but the parts that they write are read again.
    """
    large = values * outputs > 2**13
    _, columns, more = _columns(outputs, 48 if large else 96)
    inner = _block(values, 128 if precision == "bf16" and values > 144 and not large else 64)
    programs = (2 if large else 4) * MULTIPROCESSORS
    return {
        "BM": 64, "BN": columns, "MORE": more, "BK": inner, "AHEAD": True, "num_warps": 4, "num_stages": 1,
        "PROGRAMS": programs,
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
