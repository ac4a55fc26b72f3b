// Farkas convolutions (1x1 and 3x3, stride 1, zero padding that keeps the size) with images in the vector lanes.
//
// Libraries put channels into vector lanes, so that 17 channels cost what 32 do with AVX-512. Here a tensor lies in
// memory as (C, H, W, N), N a multiple of LANES, and a vector is one position of one channel of LANES images: no
// channel count wastes lanes, loads are aligned, and the zero padding is a column of zero vectors.
//
// Work is cut into items, bands of rows, that PyTorch's own threads share: others would wait for a core on which those
// of PyTorch still look out for work.

#include "native_buffer.h"

// The last bias of a Farkas layer: max(bound - Agg(b), b_m), with both arguments.
struct LastBias {
    float limit, own;
    LastBias(const float* bias, integer free, float coefficient, float bound) : own(bias[free]) {
        float sum = 0;
        for (integer o = 0; o < free; ++o) sum += bias[o];
        limit = bound - coefficient * sum;
    }
    float value() const { return limit < own || own != own ? own : limit; }
    float share() const { return limit > own ? 1.0f : limit == own ? 0.5f : 0.0f; }  // of its gradient that limit gets
};

struct Epilogue {
    const float *bias, *shortcut;  // without a bias: the bare sums, no aggregated channel
    float coefficient, last_bias;
    int relu;
    vec operator()(vec z) const { return relu ? (z < 0 ? vec{} : z) : z; }
};

// `O` outputs at POSITIONS positions: `second` leads from the first group of positions to the other, `at` has their
// places in the output plane, or -1 for none, and `total` is the sum over outputs.
template <int K, int O>
static void tile(const float* x, const Buffer& b, integer second, const float* w, const Layer& l, const Epilogue& e,
                 integer output, const integer* at, float* out, vec* total) {
    if (e.shortcut)  // asked for now, needed at the end
        for (int o = 0; o < O; ++o)
            for (int v = 0; v < POSITIONS; ++v)
                if (at[v] >= 0) __builtin_prefetch(e.shortcut + (output + o) * l.plane() + at[v]);
    vec sum[O][POSITIONS];
    UNROLL for (int o = 0; o < O; ++o)
        UNROLL for (int v = 0; v < POSITIONS; ++v) sum[o][v] = vec{};
    for (integer i = 0; i < l.inputs; ++i, x += b.plane)
        for (int ky = 0; ky < K; ++ky) {
            const float* p = x + ky * b.pitch;
            for (int kx = 0; kx < K; ++kx, w += O, p += LANES) {
                FORGET(p);
                vec row[O];
                UNROLL for (int o = 0; o < O; ++o) {
                    row[o] = splat(w[o]);
                    IN_REGISTER(row[o]);
                }
                UNROLL for (int v = 0; v < POSITIONS; ++v) {
                    vec pixels = load(p + v % GROUP * LANES + v / GROUP * second);
                    IN_REGISTER(pixels);
                    UNROLL for (int o = 0; o < O; ++o) sum[o][v] += row[o] * pixels;
                }
            }
        }
    vec result[O][POSITIONS];  // a copy, so that `sum` itself needs no memory
    UNROLL for (int o = 0; o < O; ++o)
        UNROLL for (int v = 0; v < POSITIONS; ++v) result[o][v] = sum[o][v];
    for (int o = 0; o < O; ++o) {
        const vec bias = splat(e.bias ? e.bias[output + o] : 0.0f);
        for (int v = 0; v < POSITIONS; ++v) {
            if (at[v] < 0) continue;
            const integer to = (output + o) * l.plane() + at[v];
            if (e.shortcut) result[o][v] += load(e.shortcut + to);
            total[v] += result[o][v];
            store(out + to, e(result[o][v] + bias));
        }
    }
}

// The weight in the order of reading: tile of outputs, input, tap, output in the tile.
static void pack(const float* weight, float* to, const Layer& l, const Parts& tiles) {
    for (integer t = 0; t < tiles.parts; ++t)
        for (integer i = 0; i < l.inputs; ++i)
            for (integer y = 0; y < l.kernel; ++y)
                for (integer x = 0; x < l.kernel; ++x)
                    for (integer o = tiles.first(t); o < tiles.first(t + 1); ++o)
                        *to++ = weight[o * l.of_output + i * l.of_input + y * l.of_row + x * l.of_column];
}

template <int K>
static void convolve_band(const Buffer& b, const float* x, const float* packed, const Parts& tiles, const Epilogue& e,
                          float* out, const Layer& l, integer lane, integer top, integer rows) {
    const integer across = (l.width + GROUP - 1) / GROUP, groups = rows * across;
    for (integer g = 0; g < groups; g += PARTS) {
        integer at[POSITIONS], from[PARTS];
        for (int k = 0; k < PARTS; ++k) {
            const integer group = least(g + k, groups - 1), y = group / across, column = group % across * GROUP;
            from[k] = y * b.pitch + column * LANES;
            for (int v = 0; v < GROUP; ++v)
                at[k * GROUP + v] = column + v < l.width ? ((top + y) * l.width + column + v) * l.images + lane : -1;
        }
        vec total[POSITIONS] = {};
        for (integer t = 0; t < tiles.parts; ++t) {
            const auto compute = tiles.size(t) == 3 ? tile<K, 3> : tiles.size(t) == 2 ? tile<K, 2> : tile<K, 1>;
            const integer o = tiles.first(t);
            const float* w = packed + o * l.inputs * K * K;
            compute(x + from[0], b, from[PARTS - 1] - from[0], w, l, e, o, at, out, total);
        }
        if (!e.bias) continue;
        const vec bias = splat(e.last_bias), coefficient = splat(e.coefficient);
        for (int v = 0; v < POSITIONS; ++v)
            if (at[v] >= 0) store(out + l.outputs * l.plane() + at[v], e(bias - coefficient * total[v]));
    }
}

// The gradient of the weights of `I` inputs and `O` outputs for `R` rows of taps, summed over a band. The pixels are
// read where they are; the taps are the neighbours of their places in the gradient, which has its border already.
template <int K, int R, int I, int O>
static void gradient_tile(const float* x, const float* g, const Buffer& gs, integer blocks, integer rows, bool add,
                          float* out, const Layer& l) {
    vec sum[I][O][R][K];
    UNROLL for (int i = 0; i < I; ++i)
        UNROLL for (int o = 0; o < O; ++o)
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int k = 0; k < K; ++k) sum[i][o][r][k] = vec{};
    for (integer block = 0; block < blocks; ++block)
        for (integer y = 0; y < rows; ++y) {
            const float* p = x + block * LANES + y * l.width * l.images;
            const float* q = g + block * gs.block + y * gs.pitch;
            for (integer c = 0; c < l.width; ++c, p += l.images, q += LANES) {
                FORGET(q);
                vec pixels[I];
                UNROLL for (int i = 0; i < I; ++i) {
                    pixels[i] = load(p + i * l.plane());
                    IN_REGISTER(pixels[i]);
                }
                UNROLL for (int o = 0; o < O; ++o)
                    UNROLL for (int r = 0; r < R; ++r)
                        UNROLL for (int k = 0; k < K; ++k) {
                            vec of = load(q + o * gs.plane + r * gs.pitch + k * LANES);
                            IN_REGISTER(of);
                            UNROLL for (int i = 0; i < I; ++i) sum[i][o][r][k] += pixels[i] * of;
                        }
            }
        }
    UNROLL for (int i = 0; i < I; ++i)
        UNROLL for (int o = 0; o < O; ++o)
            UNROLL for (int r = 0; r < R; ++r)
                UNROLL for (int k = 0; k < K; ++k) {
                    float& to = out[o * l.of_output + i * l.of_input - r * l.of_row - k * l.of_column];
                    to = (add ? to : 0.0f) + Sum<LANES>::of(sum[i][o][r][k]);
                }
}

template <int K, int O>
static void gradient_tiles(const float* x, const Buffer& gs, float* out, const Layer& l, const Parts& tiles, integer t,
                           integer o, integer blocks, integer rows, bool add) {
    static const int R = POSITIONS == 8 ? K : 1;
    const auto compute = tiles.size(t) == 3   ? gradient_tile<K, R, 3, O>
                         : tiles.size(t) == 2 ? gradient_tile<K, R, 2, O>
                                              : gradient_tile<K, R, 1, O>;
    const integer i = tiles.first(t);
    for (int r = 0; r < K; r += R) {
        float* to = out + o * l.of_output + i * l.of_input + (K - 1 - r) * l.of_row + (K - 1) * l.of_column;
        compute(x + i * l.plane(), gs.row(o, r), gs, blocks, rows, add, to, l);
    }
}

// All taps of one output, or several outputs where there is but one tap.
template <int K>
static void gradient_band(const float* x, const Buffer& gs, float* out, const Layer& l, integer blocks, integer rows,
                          bool add) {
    static const int O = K == 1 ? 4 : 1;
    const Parts tiles(l.inputs, OUT);
    for (integer t = 0; t < tiles.parts; ++t) {
        integer o = 0;
        for (; o + O <= l.outputs; o += O) gradient_tiles<K, O>(x, gs, out, l, tiles, t, o, blocks, rows, add);
        for (; o < l.outputs; ++o) gradient_tiles<K, 1>(x, gs, out, l, tiles, t, o, blocks, rows, add);
    }
}

// Calls part(number, first, last) for an even share of the items on each thread; whether one of them failed.
template <class Part>
static int share_out(integer items, integer threads, const Part& part) {
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(| : failed) if (threads > 1)
    for (integer i = 0; i < threads; ++i) failed |= part(i, items * i / threads, items * (i + 1) / threads);
    return failed;
}

// out[n, o] = relu(bias[o] + z), z = shortcut[n, o] + sum_i weight[o, i] * x[n, i], and behind the outputs the channel
// relu(max(bound - Agg(bias), bias[outputs]) - coefficient * sum_o z). Returns 0, or 1 without memory.
static int convolve(const float* x, const float* weight, const float* bias, const float* shortcut, float coefficient,
                    float bound, int relu, float* out, const Layer& l, integer first, integer last) {
    const Parts tiles(l.outputs, OUT);
    const float last_bias = LastBias(bias, l.outputs, coefficient, bound).value();
    const Epilogue e = {bias, shortcut, coefficient, last_bias, relu};
    Buffer b(l, l.inputs, (l.width + GROUP - 1) / GROUP * GROUP, l.kernel / 2, l.stack, scratch[0]);
    float* packed = (float*)malloc(sizeof(float) * l.inputs * l.outputs * l.kernel * l.kernel);
    const int failed = !b.data || !packed;
    if (!failed) pack(weight, packed, l, tiles);
    for (integer item = first; item < last && !failed; ++item) {
        const integer lane = item / l.bands() * l.stack * LANES, top = item % l.bands() * l.band;
        const integer blocks = least(l.stack, (l.images - lane) / LANES), rows = least(l.band, l.height - top);
        b.fill(x + lane, l, l.inputs, blocks, top, rows);
        for (integer k = 0; k < blocks; ++k)
            (l.kernel == 3 ? convolve_band<3> : convolve_band<1>)(b, b.data + k * b.block, packed, tiles, e, out, l,
                                                                  lane + k * LANES, top, rows);
    }
    free(packed);
    return failed;
}

// The gradients of `convolve`; `output` is null without a ReLU, `shortcut`, `input` and `weight` where they are
// not wanted, and `extra` is added to that of the input. The sums in `weight` and `bias` are over the given items.
static int backward(const float* x, const float* weights, const float* gradient, const float* output,
                    float coefficient, const float* extra, float* input, float* weight, float* bias, float* shortcut,
                    const Layer& l, integer first, integer last) {
    const integer edge = l.kernel / 2, corner = l.kernel - 1;
    Layer back = l;  // the convolution with the transposed, mirrored weight
    back.inputs = l.outputs, back.outputs = l.inputs, back.of_output = l.of_input, back.of_input = l.of_output;
    back.of_row = -l.of_row, back.of_column = -l.of_column;
    const Parts tiles(l.inputs, OUT);
    const Epilogue e = {nullptr, extra, 0, 0, 0};
    Buffer gs(l, l.outputs, (l.width + GROUP - 1) / GROUP * GROUP, edge, l.stack, scratch[0]);
    Buffer aggregated(l, 1, l.width, 0, l.stack, scratch[1]);
    float* packed = (float*)malloc(sizeof(float) * l.inputs * l.outputs * l.kernel * l.kernel);
    const int failed = !gs.data || !aggregated.data || !packed;
    if (!failed) {
        pack(weights + corner * (l.of_row + l.of_column), packed, back, tiles);
        memset(bias, 0, sizeof(float) * (l.outputs + 1));
    }
    for (integer item = first; item < last && !failed; ++item) {
        const integer lane = item / l.bands() * l.stack * LANES, top = item % l.bands() * l.band;
        const integer blocks = least(l.stack, (l.images - lane) / LANES), rows = least(l.band, l.height - top);
        fill_gradient(gs, gradient + lane, output ? output + lane : nullptr, coefficient,
                      shortcut ? shortcut + lane : nullptr, bias, l, aggregated.data, blocks, top, rows);
        for (integer k = 0; k < blocks && input; ++k)
            (l.kernel == 3 ? convolve_band<3> : convolve_band<1>)(gs, gs.data + k * gs.block, packed, tiles, e, input,
                                                                  back, lane + k * LANES, top, rows);
        if (!weight) continue;
        const float* from = x + lane + top * l.width * l.images;
        (l.kernel == 3 ? gradient_band<3> : gradient_band<1>)(from, gs, weight, l, blocks, rows, item > first);
    }
    free(packed);
    return failed;
}

extern "C" {

int farkas_lanes() { return LANES; }

int farkas_convolve(const float* x, const float* weight, const float* bias, const float* shortcut, float coefficient,
                    float bound, int relu, float* out, const Layer* layer, integer items, integer threads) {
    return share_out(items, threads, [=](integer, integer first, integer last) {
        return convolve(x, weight, bias, shortcut, coefficient, bound, relu, out, *layer, first, last);
    });
}

// Each thread has sums of its own: `weight` points to theirs, those of the biases are rows of `bias`.
int farkas_backward(const float* x, const float* weights, const float* gradient, const float* output,
                    float coefficient, const float* extra, float* input, float* const* weight, float* bias,
                    float* shortcut, const Layer* layer, integer items, integer threads) {
    return share_out(items, threads, [=](integer number, integer first, integer last) {
        return backward(x, weights, gradient, output, coefficient, extra, input, weight ? weight[number] : nullptr,
                        bias + number * (layer->outputs + 1), shortcut, *layer, first, last);
    });
}

// From `parts` rows of sums, the gradients of all biases, to that of the layer's own.
void farkas_bias_gradient(const float* sums, integer parts, const float* bias, float coefficient, float bound,
                          float* out, integer outputs) {
    const LastBias last(bias, outputs, coefficient, bound);
    for (integer o = outputs; o >= 0; --o) {
        out[o] = 0;
        for (integer part = 0; part < parts; ++part) out[o] += sums[part * (outputs + 1) + o];
        if (o < outputs) out[o] -= coefficient * last.share() * out[outputs];
    }
    out[outputs] *= 1 - last.share();
}
}
