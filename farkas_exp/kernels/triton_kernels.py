"""What runs on the GPU: convolutions with what follows them, their derivatives, and pooling (Triton).

`triton_conv` calls these and says what the maps and rows are.
"""

from typing import Any

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

# `if MORE` and the unrolled loops are decided when a kernel is compiled, which a type checker cannot know:
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
jit: Any = triton.jit  # a kernel's numbers are no objects of Triton


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
def convolve(
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
def through_relu(
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
def weights(
    x, g, parts, pixels, x_row, g_row, chunk,
    K: tl.constexpr, SPAN: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
    PRECISION: tl.constexpr, X: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, MORE: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The gradients of BN + MORE outputs' weights for BK of the values around a pixel, and of the bias.

    A program sums over `chunk` pixels, BM at once, and reads the next BM meanwhile. A part of the
    result has ROWS, one for each value around a pixel and then the bias, and a column for each output.
    """
    split, row, r = tl.program_id(0), x_row * X, tl.arange(0, BM)
    end = tl.minimum((split + 1) * chunk, pixels)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    first = tl.program_id(2) * (BN + MORE)
    n, more = first + tl.arange(0, BN), first + BN + tl.arange(0, MORE or 1)
    sums, others = tl.zeros((BK, BN), tl.float32), tl.zeros((BK, MORE or 1), tl.float32)
    bias, other_bias = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, MORE or 1), tl.float32)
    inside = _inside(split * chunk, r, end, K, HEIGHT, WIDTH, BM)
    values = _around(x + split * chunk * row, r, k, inside, row, K, SPAN, WIDTH)
    gradients = _gradients(g, split * chunk, r, n, end, g_row * 8)
    if MORE:
        other_gradients = _gradients(g, split * chunk, r, more, end, g_row * 8)
    for start in range(split * chunk, end, BM):
        these, factors = values, gradients
        if MORE:
            other_factors = other_gradients
        ahead = start + BM
        inside = _inside(ahead, r, end, K, HEIGHT, WIDTH, BM)
        values = _around(x + ahead * row, r, k, inside, row, K, SPAN, WIDTH)
        gradients = _gradients(g, ahead, r, n, end, g_row * 8)
        if MORE:
            other_gradients = _gradients(g, ahead, r, more, end, g_row * 8)
        these = tl.trans(these)
        sums = _plus_product(sums, these, factors, HALF, PRECISION)
        if MORE:
            others = _plus_product(others, these, other_factors, HALF, PRECISION)
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
def sum_parts(
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
def pool(
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
